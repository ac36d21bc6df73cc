"""Draw the picture of README.md: queries and what the shipped network finds for each. `python docs/picture.py`"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

import eval

QUERIES = ("reef/0003", "snow_peaks/0004", "night_city/0007", "mushrooms/0005")
SHOWN = 6
GAP = 6


def main() -> None:
    images = eval.draw_synthetic()
    result = eval.evaluate("test_resnet_gam.corel", images)
    width, height = 144 + GAP, 96 + GAP
    page = Image.new("RGB", ((SHOWN + 1) * width + 3 * GAP, len(QUERIES) * height + GAP), "white")
    pen = ImageDraw.Draw(page)
    for row, query in enumerate(QUERIES):
        found = [(ranked.id, ranked.relevant) for ranked in result.ranking(query, n=SHOWN).ranked]
        for column, (name, relevant) in enumerate([(query, True), *found]):
            x, y = GAP + column * width + (2 * GAP if column else 0), GAP + row * height
            page.paste(next(images.reader.read([images.ids.index(name)]))[1], (x, y))
            colour = "#222222" if column == 0 else "#2e9e5b" if relevant else "#d33f3f"
            pen.rectangle([x - 3, y - 3, x + 146, y + 98], outline=colour, width=3)
    page.save(Path(__file__).with_name("images") / "query.webp", quality=85)


if __name__ == "__main__":
    main()
