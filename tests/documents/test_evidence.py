"""The figures of docs/EVIDENCE.md, and what README.md and MODEL_CARD.md say of them, against the committed records."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])")


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """Every number that the command of docs/EVIDENCE.md prints, without its sign."""
    command = [sys.executable, "benchmarks/networks/transfer_table.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(NUMBER.findall(done.stdout))


def _section(name: str, heading: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


def test_figures_to_a_hundredth_are_in_the_records(shown: set[str]) -> None:
    precise = [
        one for one in NUMBER.findall(_section("docs/EVIDENCE.md", "## The result")) if len(one.split(".")[1]) > 1
    ]
    not_of_runs = {"0.01", "0.02", "0.05", "2.11"}  # a rounding, two learning rates, a release of torch
    assert len(precise) > 200
    assert {one for one in precise if one not in shown} <= not_of_runs


def test_other_documents_repeat_them(shown: set[str]) -> None:
    card = _section("MODEL_CARD.md", "## The ResNet50 family at 96 px: pretrained by us on other classes")
    results = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8").split("The ResNet50 family, pretrained")[1]
    for text in (card, results):
        figures = NUMBER.findall(text)
        assert len(figures) > 8
        assert set(figures) <= shown


def test_the_five_lines_round_them(shown: set[str]) -> None:
    rounded = {f"{float(one):.1f}" for one in shown}
    sections = (
        ("MODEL_CARD.md", "## Does attention help?"),
        ("README.md", "## Attention without losing the backbone"),
        ("docs/EVIDENCE.md", "## The result"),
    )
    for text in (_section(*section) for section in sections):
        plain = text.split("### ")[0]
        figures = [one for one in NUMBER.findall(plain) if len(one.split(".")[1]) == 1]
        assert figures
        assert set(figures) <= rounded
