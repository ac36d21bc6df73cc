"""Decoded images kept in memory, so that small photographs are decoded once and not once an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timm_gam.data import EncodedImage, ImageReader, ImageSet
from timm_gam.images.decoding import load_image
from timm_gam.images.limits import DecodeLimits


def cache_decoded(
    images: ImageSet, rows: NDArray[np.int64], budget: int, limits: DecodeLimits = DecodeLimits()
) -> ImageSet:
    """The same image set with as many of `rows` decoded in memory as fit `budget`; others are read as before.

    Args:
        images: The image set.
        rows: (N,) ascending rows to decode, the first of them first.
        budget: Bytes of uint8 pixels; 0 decodes nothing.
        limits: What one image may take.

    Raises:
        UnreadableImageError: an image cannot be decoded.
    """
    pixels: dict[int, NDArray[np.uint8]] = {}
    used = 0
    if budget:
        for row, encoded in images.reader.read(rows.tolist()):
            array = np.asarray(load_image(encoded, images.ids[row], limits=limits)[0])
            used += array.nbytes
            if used > budget:
                break
            pixels[row] = array
    return replace(images, reader=_CachingReader(images.reader, pixels, images.reader.parallel))


@dataclass(frozen=True)
class _CachingReader:
    inner: ImageReader
    pixels: dict[int, NDArray[np.uint8]]  # (H, W, 3) of each decoded row
    parallel: bool

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        encoded = self.inner.read([row for row in indices if row not in self.pixels])
        for row in indices:
            yield (row, Image.fromarray(self.pixels[row])) if row in self.pixels else next(encoded)
