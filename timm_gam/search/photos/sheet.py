"""A contact sheet: photographs in one HTML file that needs no other, or in one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from timm_gam.core import UnreadableImageError, atomic_path, write_text
from timm_gam.images import data_uri, page_environment, small_picture

_SIDE = 320
_COLUMNS, _CELL, _GAP, _MOST_DRAWN = 5, (260, 240), 14, 400
_TEMPLATES = Path(__file__).parent / "templates"


Section = tuple[str, Sequence[tuple[Path, str]]]
"""A heading, and (file, caption) of photographs."""


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections of photographs as HTML.

    Raises:
        OutputError: it cannot be written.
    """
    shown = [(heading, [(*_shown(photo), caption) for photo, caption in photos]) for heading, photos in sections]
    write_text(path, page_environment(_TEMPLATES).get_template("sheet.html").render(title=title, sections=shown))


def draw_picture(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Draw sections of photographs as a PNG, the first few hundred of them.

    Raises:
        OutputError: it cannot be written.
    """
    left, rows = _MOST_DRAWN, []
    for heading, photos in sections:
        shown = list(photos)[: max(0, left)]
        left -= len(photos)
        rows.append((heading, [shown[start : start + _COLUMNS] for start in range(0, len(shown), _COLUMNS)]))
    more = f" ({-left:,} more are left out: write --html)" if left < 0 else ""
    height = 60 + sum(44 + len(lines) * _CELL[1] for _, lines in rows if lines)
    sheet = Image.new("RGB", (_COLUMNS * _CELL[0] + _GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(22), ImageFont.load_default(14)
    draw.text((_GAP, 18), title + more, "black", large)
    top = 60
    for heading, lines in rows:
        if lines:
            draw.text((_GAP, top + 12), heading, "black", ImageFont.load_default(17))
            top += 44
        for line in lines:
            for column, (photo, caption) in enumerate(line):
                _draw_photo(sheet, (column * _CELL[0] + _GAP, top), photo, caption, small)
            top += _CELL[1]
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _draw_photo(sheet: Image.Image, corner: tuple[int, int], photo: Path, caption: str, font: Any) -> None:
    width, height = _CELL[0] - _GAP, _CELL[1] - 58
    draw = ImageDraw.Draw(sheet)
    try:
        image = small_picture(photo, str(photo), _SIDE)
        image.thumbnail((width, height))
        sheet.paste(image, (corner[0] + (width - image.width) // 2, corner[1] + (height - image.height) // 2))
    except UnreadableImageError as error:
        caption = f"{caption} · {error.reason}"
    for number, line in enumerate(textwrap.wrap(caption, 30)[:3]):
        draw.text((corner[0], corner[1] + height + 4 + 17 * number), line, "black", font)


def _shown(photo: Path) -> tuple[str, str]:
    """A thumbnail as an address, or "" and why there is none."""
    try:
        return data_uri(small_picture(photo, str(photo), _SIDE)), ""
    except UnreadableImageError as error:
        return "", error.reason
