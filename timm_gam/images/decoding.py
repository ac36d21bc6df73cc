"""Encoded image -> RGB pixels, for files that nobody vouches for."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from timm_gam.core import UnreadableImageError
from timm_gam.data import FORMATS, EncodedImage

__all__ = ["MAX_PIXELS", "Shrink", "content_digest", "load_image"]

MAX_PIXELS = 89_478_485
"""Larger images are refused from their header, before memory is taken: Pillow's own limit, 268 MB as RGB."""

MAX_ASPECT = 500
"""Longer slivers are refused too: a line of 60,000 pixels takes 10 GB once its short side is resized to 224."""


Shrink = Callable[[int, int], int]
"""(width, height) of an upright image -> by how much a JPEG of that size may be reduced while it is decoded."""


def load_image(encoded: EncodedImage, image_id: str, shrink: Shrink | None = None) -> tuple[Image.Image, bytes]:
    """Read an image once: its pixels and the SHA-256 of its encoded bytes.

    EXIF orientation is applied, CMYK and palettes are converted, 16-bit grey is scaled to 8 bits, transparency is
    dropped as timm drops it, and of an animation the first frame is taken.

    Args:
        encoded: File bytes, a path, or a drawn image.
        image_id: Names the image in errors.
        shrink: Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, as this function says (1: whole). The decoder leaves out
            the DCT coefficients that a smaller image cannot show, which is much quicker than to decode and resize.
            Other formats are decoded whole.

    Returns:
        An RGB image and 32 bytes.

    Raises:
        UnreadableImageError: missing, truncated, not an image of `timm_gam.data.FORMATS`, larger than MAX_PIXELS, or
            longer than MAX_ASPECT.
    """
    if isinstance(encoded, Image.Image):
        return encoded.convert("RGB"), content_digest(encoded, image_id)
    data = _read_bytes(encoded, image_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about sizes between our limit and Pillow's error
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError(image_id, _too_large(f"{image.width} x {image.height}"))
                if max(image.size) > MAX_ASPECT * min(image.size):
                    size = f"{image.width} x {image.height}"
                    raise UnreadableImageError(image_id, f"{size}: more than {MAX_ASPECT} times as long as wide")
                if shrink is not None and image.format in ("JPEG", "MPO"):
                    _draft(image, shrink)
                eight_bits = _scaled_to_8_bits(image)
                ImageOps.exif_transpose(eight_bits, in_place=True)
                rgb = eight_bits.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(image_id, _too_large(str(error).split(" exceeds")[0])) from error
    except (UnreadableImageError, MemoryError):  # no memory says nothing of the image
        raise
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error and more
        reason = "empty file" if not data else (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableImageError(image_id, _without_address(reason)) from error
    return rgb, hashlib.sha256(data).digest()


def content_digest(encoded: EncodedImage, image_id: str) -> bytes:
    """SHA-256 of a file's bytes, or of a drawn image's mode, size and pixels, without decoding.

    Raises:
        UnreadableImageError: the file cannot be read.
    """
    if isinstance(encoded, Image.Image):
        header = f"{encoded.mode} {encoded.size}".encode()
        return hashlib.sha256(header + encoded.tobytes()).digest()
    return hashlib.sha256(_read_bytes(encoded, image_id)).digest()


def _read_bytes(encoded: bytes | Path, image_id: str) -> bytes:
    if isinstance(encoded, bytes):
        return encoded
    if "\0" in str(encoded):
        raise UnreadableImageError(image_id, "its path holds a NUL character")
    try:
        if not stat.S_ISREG(encoded.stat().st_mode):  # a pipe would block until somebody writes
            raise UnreadableImageError(image_id, "not a regular file")
        return encoded.read_bytes()
    except OSError as error:
        raise UnreadableImageError(image_id, error.strerror or type(error).__name__) from error


def _draft(image: Image.Image, shrink: Shrink) -> None:
    lying = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # to be turned by 90 degrees
    factor = shrink(*(reversed(image.size) if lying else image.size))
    if factor > 1:
        image.draft(None, (max(image.width // factor, 1), max(image.height // factor, 1)))


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey; Pillow's own conversion clips at 255. Other modes are returned as they are."""
    if not (image.mode.startswith("I;16") or image.mode == "I"):
        return image
    values = np.asarray(image).astype(np.int64) >> 8
    grey = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    grey.getexif().update(image.getexif())
    return grey


def _too_large(size: str) -> str:
    return f"{size}: more than {MAX_PIXELS:,} pixels are refused; make it smaller"


def _without_address(reason: str) -> str:
    return "not an image" if reason.startswith("cannot identify image file") else reason
