"""Encoded image -> RGB pixels, for files that nobody vouches for."""

from __future__ import annotations

import hashlib
import io
import logging
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from timm_gam.core import UnreadableImageError, silent_libraries
from timm_gam.data import FORMATS, EncodedImage
from timm_gam.images.bombs import SMALL, TimedBytes, check_header, too_large, too_much
from timm_gam.images.limits import DecodeLimits

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it logs goes to stderr; others still get it

_NOISY = ("TIFF", "WEBP", "AVIF")  # decoded by libraries that Pillow does not keep from printing
_BAND_PIXELS = 2**20  # of a 16-bit image, scaled to 8 bits at once

Shrink = Callable[[int, int], int]
"""(width, height) of an upright image -> by how much a JPEG of that size may be reduced while it is decoded."""


def load_image(
    encoded: EncodedImage, image_id: str, shrink: Shrink | None = None, limits: DecodeLimits = DecodeLimits()
) -> tuple[Image.Image, bytes]:
    """Read an image once: its pixels and the SHA-256 of its encoded bytes.

    EXIF orientation is applied, CMYK and palettes are converted, 16-bit grey is scaled to 8 bits, transparency is
    dropped as timm drops it, and of an animation the first frame is taken.

    Args:
        encoded: File bytes, a path, or a drawn image.
        image_id: Names the image in errors.
        shrink: Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, as this function says (1: whole). The decoder leaves out
            the DCT coefficients that a smaller image cannot show, which is much quicker than to decode and resize.
            Other formats are decoded whole.
        limits: What the image may take.

    Returns:
        An RGB image and 32 bytes.

    Raises:
        UnreadableImageError: missing, truncated, not an image of `timm_gam.data.FORMATS`, or beyond `limits`.
    """
    if isinstance(encoded, Image.Image):
        return encoded.convert("RGB"), content_digest(encoded, image_id)
    data = _read_bytes(encoded, image_id, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about sizes between our limit and Pillow's error
            file = TimedBytes(data, image_id, limits) if len(data) > SMALL else io.BytesIO(data)
            with Image.open(file, formats=FORMATS) as image:
                rgb = _decode(image, data, image_id, shrink, limits)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(image_id, too_large(str(error).split(" exceeds")[0])) from error
    except (UnreadableImageError, MemoryError):  # no memory says nothing of the image
        raise
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error and more
        reason = "empty file" if not data else (str(error).splitlines() or [type(error).__name__])[0]
        reason = "not an image" if reason.startswith("cannot identify image file") else reason  # at some address
        raise UnreadableImageError(image_id, reason) from error
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


def _read_bytes(encoded: bytes | Path, image_id: str, limits: DecodeLimits | None = None) -> bytes:
    if isinstance(encoded, bytes):
        return encoded
    if "\0" in str(encoded):
        raise UnreadableImageError(image_id, "its path holds a NUL character")
    try:
        status = encoded.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block until somebody writes
            raise UnreadableImageError(image_id, "not a regular file")
        if limits is not None and status.st_size > limits.megabytes * 2**20:  # by itself
            raise UnreadableImageError(image_id, too_much(f"a file of {status.st_size / 2**20:,.0f} MB", limits))
        return encoded.read_bytes()
    except OSError as error:
        raise UnreadableImageError(image_id, error.strerror or type(error).__name__) from error


def _decode(image: Image.Image, data: bytes, image_id: str, shrink: Shrink | None, limits: DecodeLimits) -> Image.Image:
    """The upright RGB pixels of an opened image."""
    check_header(image, data, image_id, limits)
    if shrink is not None and image.format in ("JPEG", "MPO"):
        rotated = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # to be turned by 90 degrees
        factor = shrink(*(reversed(image.size) if rotated else image.size))
        if factor > 1:
            image.draft(None, (max(image.width // factor, 1), max(image.height // factor, 1)))
    if image.format in _NOISY:
        with silent_libraries():
            image.load()
    eight_bits = _scaled_to_8_bits(image)
    ImageOps.exif_transpose(eight_bits, in_place=True)
    return eight_bits.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey; Pillow's own conversion clips at 255. Other modes are returned as they are.

    Raises:
        ValueError: pixels are floating point.
    """
    if image.mode == "F":
        raise ValueError("floating point pixels, whose range nothing says: save it with 8 or 16 bits")
    if not (image.mode.startswith("I;16") or image.mode == "I"):
        return image
    grey = Image.new("L", image.size)
    rows = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):  # in bands: numpy's copies are small beside the image
        band = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        grey.paste(Image.fromarray(np.clip(band >> 8, 0, 255).astype(np.uint8)), (0, top))
    grey.getexif().update(image.getexif())
    return grey
