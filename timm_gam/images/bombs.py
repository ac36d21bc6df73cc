"""Decompression bombs: files of a few bytes that ask for hours and gigabytes.

A bound that is hit makes an image unreadable like any other: one line, or skipped and counted.
"""

from __future__ import annotations

import io
import re
import time

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from timm_gam.core import UnreadableImageError
from timm_gam.images.limits import DecodeLimits

MAX_PIXELS = 89_478_485
"""Larger images are refused from their header, before memory is taken: Pillow's own limit, 358 MB as it keeps RGB."""

MAX_ASPECT = 500
"""Longer slivers are refused too: a line of 60,000 pixels takes 10 GB once its short side is resized to 224."""

_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # of Pillow; 4 of all others
_DECODER_KEEPS = {"WEBP": 12, "AVIF": 7}  # bytes a pixel, measured
_MOST_PER_PIXEL = 16
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # but stuffed zeros and restarts, which stand within a scan
_SCAN = b"\xff\xda"
SMALL = 2**20
"""Bytes of files that cannot hold much to do, and are read quicker untimed."""

_PIECE = 4096  # bytes of a JPEG of several scans between two looks at the clock: a pass over all pixels takes ten


class TimedBytes(io.BytesIO):
    """Encoded bytes that can no longer be read once a thread has computed for so long since they were made.

    Raises:
        UnreadableImageError: when read.
    """

    def __init__(self, data: bytes, image_id: str, limits: DecodeLimits) -> None:
        super().__init__(data)
        self._image_id, self._seconds = image_id, limits.seconds
        self._start_time, self._end = time.thread_time(), time.monotonic() + limits.seconds

    def read(self, size: int | None = -1, /) -> bytes:
        # The first clock costs a twentieth of the second, which is behind it.
        if time.monotonic() > self._end and time.thread_time() - self._start_time > self._seconds:
            reason = f"more than {self._seconds:g} s to decode it; --max-decode-seconds allows more"
            raise UnreadableImageError(self._image_id, reason)
        return super().read(size)


def check_header(image: Image.Image, data: bytes, image_id: str, limits: DecodeLimits) -> None:
    """Refuse an opened image that takes too much, before its pixels are decoded, whole or reduced.

    Raises:
        UnreadableImageError: too many pixels, too long, too many scans, or too much memory.
    """
    size = f"{image.width} x {image.height}"
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(image_id, too_large(size))
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise UnreadableImageError(image_id, f"{size}: more than {MAX_ASPECT} times as long as wide")
    several = False
    if isinstance(image, JpegImageFile) and (several := _has_several_scans(image, data)):
        image.fp, image.decodermaxblock = TimedBytes(data, image_id, limits), _PIECE
        if data.count(_SCAN) > limits.scans and (scans := count_scans(data)) > limits.scans:
            reason = f"a JPEG of {scans:,} scans, {limits.scans:,} are decoded; --max-scans allows more"
            raise UnreadableImageError(image_id, reason)
    if len(data) + _MOST_PER_PIXEL * image.width * image.height <= limits.megabytes * 2**20 and image.format != "TIFF":
        return
    needed = len(data) + _bytes_to_decode(image, keeps_coefficients=several)
    if needed > limits.megabytes * 2**20:
        raise UnreadableImageError(image_id, too_much(f"{needed / 2**20:,.0f} MB", limits))


def _has_several_scans(image: JpegImageFile, data: bytes) -> bool:
    """Whether its first scan, behind whose header Pillow stands, is not all there is."""
    assert image.fp is not None
    end, length = image.fp.tell(), 6 + 2 * image.layers
    return "progressive" in image.info or data[end - length - 2 : end - length + 2] != _SCAN + length.to_bytes(2, "big")


def count_scans(data: bytes) -> int:
    """Scans of a JPEG up to its end marker; those of a thumbnail within a segment or of a picture behind do not count.

    >>> count_scans(bytes.fromhex("ffd8 ffe1 0004 ffda ffda 0002 ff00 ffd0 ffda 0002 00 ffd9 ffda"))
    2
    """
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None:
        kind, place = found[1][0], found.end()
        if kind == 0xD9:
            break
        scans += kind == 0xDA
        if kind not in (0x01, 0xD8):  # all others have a length, which counts its own two bytes
            place += max(int.from_bytes(data[place : place + 2], "big"), 2)
    return scans


def too_large(size: str) -> str:
    """Why an image of so many pixels is refused."""
    return f"{size}: more than {MAX_PIXELS:,} pixels are refused; make it smaller"


def _bytes_to_decode(image: Image.Image, keeps_coefficients: bool) -> int:
    """The most at one time: of Pillow's image, and then what its decoder keeps of the whole image or its RGB copy."""
    own = _BYTES_PER_PIXEL.get(image.mode, 4)
    coefficients = 2 * len(image.getbands()) if keeps_coefficients else 0
    copy = 5 if image.mode.startswith("I") else 4  # 16-bit grey is 8-bit grey in between
    beside = max(coefficients, copy, _DECODER_KEEPS.get(image.format or "", 0))
    tile = _tile_pixels(image) if isinstance(image, TiffImageFile) else 0
    return (own + beside) * image.width * image.height + own * tile


def _tile_pixels(image: TiffImageFile) -> int:
    """Of one tile, which may be larger than the image; 0 where there are none."""
    width, length = (image.tag_v2.get(tag, 0) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
    return width * length if isinstance(width, int) and isinstance(length, int) else 0


def too_much(needed: str, limits: DecodeLimits) -> str:
    """Why an image that needs so much memory is refused."""
    return f"{needed} to decode it, {limits.megabytes:,} MB are given; --max-decode-mb allows more"
