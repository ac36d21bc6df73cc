"""A contact sheet: photographs in one HTML file that needs no other."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from timm_gam.core import UnreadableImageError, atomic_path
from timm_gam.images import load_image

_SIDE = 320
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


def thumbnail(photo: Path | bytes, side: int = _SIDE) -> bytes:
    """A JPEG of at most `side` pixels a side.

    Raises:
        UnreadableImageError: the file cannot be decoded.
    """
    name = "it" if isinstance(photo, bytes) else str(photo)
    image, _ = load_image(photo, name, lambda w, h: next((f for f in (8, 4, 2) if max(w, h) >= f * side), 1))
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return data.getvalue()


def write_sheet(path: Path, title: str, sections: Sequence[tuple[str, Sequence[tuple[Path, str]]]]) -> None:
    """Write sections of photographs, each a heading and (file, caption) pairs.

    Raises:
        OutputError: it cannot be written.
    """
    text = "\n".join(
        f"<h2>{escape(heading)}</h2>\n<div>" + "\n".join(_figure(*photo) for photo in photos) + "</div>"
        for heading, photos in sections
    )
    with atomic_path(path) as temporary:
        temporary.write_text(_PAGE.format(title=escape(title), sections=text), encoding="utf-8")


def _figure(photo: Path, caption: str) -> str:
    try:
        data = base64.b64encode(thumbnail(photo)).decode()
        image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    except UnreadableImageError as error:
        image = f"<p>{escape(error.reason)}</p>"
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
