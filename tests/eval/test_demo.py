"""The first run: trained networks far above untrained ones, both beside chance."""

from __future__ import annotations

import numpy as np

from eval.demo import demo_results, demo_table


def test_what_was_learned_from_photographs_shows_on_drawn_scenes() -> None:
    trained, untrained = demo_results(images_per_class=8)
    for good, random in zip(trained, untrained, strict=True):
        learned, luck = (float(np.nanmean(result.metric("hit@1"))) for result in (good, random))
        assert 0.6 <= learned <= 0.9
        assert learned >= luck + 0.15
    table = demo_table(trained, untrained).splitlines()
    assert [line.split()[0] for line in table[4:8]] == [result.name for result in trained]
    assert table[-1].split() == ["chance", "2.9", "2.9"]  # 7 of 239
