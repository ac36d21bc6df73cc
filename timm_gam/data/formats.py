"""The image formats that are read, whatever a file calls itself."""

from __future__ import annotations

from PIL import features

_ENDINGS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # and MPO, a JPEG with more pictures behind it, by the same decoder
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
_NEED = {"WEBP": "webp", "AVIF": "avif"}  # parts that a build of Pillow may lack

FORMATS = tuple(name for name in _ENDINGS_OF if name not in _NEED or features.check(_NEED[name]))
"""Pillow's names of the decoders that may run. No other does: EPS, for one, would start the system's Ghostscript."""

ENDINGS = tuple(ending for name in FORMATS for ending in _ENDINGS_OF[name])
"""File endings that are taken for images in a folder, in lower case."""


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as those of the formats that are read.

    >>> is_image_name("IMG_1.JPG"), is_image_name("notes.txt")
    (True, False)
    """
    return name.lower().endswith(ENDINGS)
