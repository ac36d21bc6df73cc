"""The site's pages that lie outside docs/: the README is its front page; links between both kinds are made to fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "MODEL_CARD.md": "MODEL_CARD.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Page of the repository's root -> page of the site."""


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as seen from the site; what is no page of it, such as code, becomes its path."""
    generated = page.file.src_uri in PAGES.values()
    folder = ROOT if generated else ROOT / "docs"

    def fit(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path, hash_mark, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        inside = (folder / path).resolve().relative_to(ROOT).as_posix()
        if inside in PAGES:
            return f"[{text}]({PAGES[inside]}{hash_mark}{anchor})"
        if inside.startswith("docs/") and not inside.endswith((".py", ".ipynb")):
            return f"[{text}]({inside.removeprefix('docs/')}{hash_mark}{anchor})"
        return f"{text} (`{inside}`)" if text != inside else f"`{inside}`"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.M | re.S)  # code stays as it is
    return "".join(
        part if part.startswith("```") else re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", fit, part) for part in parts
    )
