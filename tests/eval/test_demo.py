"""The first run: trained networks far above untrained ones, both beside chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eval.demo import demo_record, demo_results, demo_table


def test_what_was_learned_from_photographs_shows_on_drawn_scenes() -> None:
    trained, untrained = demo_results(images_per_class=8)
    for good, random in zip(trained, untrained, strict=True):
        learned, luck = (float(np.nanmean(result.metric("hit@1"))) for result in (good, random))
        assert 0.6 <= learned <= 0.9
        assert learned >= luck + 0.15
    table = demo_table(demo_record(trained, untrained)).splitlines()
    assert [line.split()[0] for line in table[4:8]] == [result.name for result in trained]
    assert table[-1].split() == ["chance", "2.9", "2.9"]  # 7 of 239


def test_the_readme_shows_the_committed_record() -> None:
    """`timm-gam demo --results-file benchmarks/results/demo.json` writes it."""
    root = Path(__file__).resolve().parents[2]
    record = json.loads((root / "benchmarks" / "results" / "demo.json").read_text())
    readme = (root / "README.md").read_text(encoding="utf-8")
    for row in record["rows"]:
        low, high = (100 * bound for bound in row["ci95"])
        difference = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        assert (
            f"| `{row['model']}` | {100 * row['trained']:.1f} | {100 * row['untrained']:.1f} | {difference} |" in readme
        )
    assert f"| chance | {100 * record['chance']:.1f} | {100 * record['chance']:.1f} | |" in readme
