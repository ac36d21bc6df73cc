"""Documents: links lead somewhere, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_links_within_the_repository_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if ":" in path:
                continue
            found = (page.parent / path) if path else page
            if not found.exists() or (anchor and anchor not in _anchors(found)):
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_readme_is_short_and_opens_with_a_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 900
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", text[:400])
    assert picture is not None
    assert (ROOT / picture[1]).stat().st_size < 300_000


def test_the_citation_names_the_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_places_of_the_architecture_are_there() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:timm_gam|eval|hub|tests|benchmarks)/[\w/.]+)`", text)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []
