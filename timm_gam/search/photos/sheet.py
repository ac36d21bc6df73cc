"""A contact sheet: photographs in one HTML file that needs no other, or in one picture."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from timm_gam.core import UnreadableImageError, atomic_path, page_text, write_text
from timm_gam.images import DecodeLimits, small_picture

_SIDE = 320
_COLUMNS, _CELL, _GAP, _MOST_DRAWN = 5, (260, 240), 14, 400
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }}
body {{ margin: 1.5rem; max-width: 90rem }}
h1 {{ font-size: 1.2rem }} h2 {{ font-size: 1rem; margin: 1.6rem 0 .5rem }}
div {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem }}
figure {{ margin: 0 }} img {{ width: 100%; aspect-ratio: 4/3; object-fit: contain; background: #8882 }}
figcaption {{ font-size: .85rem; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{sections}
</html>
"""


def _escape(text: str) -> str:
    return html.escape(page_text(text))


def thumbnail(photo: Path | bytes, side: int = _SIDE, limits: DecodeLimits = DecodeLimits()) -> bytes:
    """A JPEG of at most `side` pixels a side.

    Raises:
        UnreadableImageError: the file cannot be decoded.
    """
    image = small_picture(photo, "it" if isinstance(photo, bytes) else str(photo), side, limits)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return data.getvalue()


Section = tuple[str, Sequence[tuple[Path, str]]]
"""A heading, and (file, caption) of photographs."""


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections of photographs as HTML.

    Raises:
        OutputError: it cannot be written.
    """
    text = "\n".join(
        f"<h2>{_escape(heading)}</h2>\n<div>" + "\n".join(_figure(*photo) for photo in photos) + "</div>"
        for heading, photos in sections
    )
    write_text(path, _PAGE.format(title=_escape(title), sections=text))


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
        image = Image.open(io.BytesIO(thumbnail(photo)))
        image.thumbnail((width, height))
        sheet.paste(image, (corner[0] + (width - image.width) // 2, corner[1] + (height - image.height) // 2))
    except UnreadableImageError as error:
        caption = f"{caption} · {error.reason}"
    for number, line in enumerate(textwrap.wrap(caption, 30)[:3]):
        draw.text((corner[0], corner[1] + height + 4 + 17 * number), line, "black", font)


def _figure(photo: Path, caption: str) -> str:
    try:
        data = base64.b64encode(thumbnail(photo)).decode()
        image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    except UnreadableImageError as error:
        image = f"<p>{_escape(error.reason)}</p>"
    return f"<figure>{image}<figcaption>{_escape(caption)}</figcaption></figure>"
