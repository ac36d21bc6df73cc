"""Draw the picture of README.md: queries and what the shipped network finds for each. `python docs/picture.py`"""

from __future__ import annotations

from pathlib import Path

import eval

QUERIES = ("reef/0003", "snow_peaks/0004", "night_city/0007", "mushrooms/0005")


def main() -> None:
    images = eval.draw_synthetic()
    picture = eval.ranking_picture(eval.evaluate("test_resnet_gam.corel", images), images, QUERIES)
    picture.save(Path(__file__).with_name("images") / "query.webp", quality=85)


if __name__ == "__main__":
    main()
