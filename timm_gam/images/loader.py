"""Images -> preprocessed batches: read, decoded and resized in loader processes while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from timm_gam.core import UnreadableImageError
from timm_gam.data import EncodedImage, ImageReader
from timm_gam.images.decoding import Shrink, load_image
from timm_gam.images.identity.similar_pictures import signature
from timm_gam.images.limits import DecodeLimits
from timm_gam.images.workers import in_shared_memory, load_items, memory_errors


@dataclass(frozen=True)
class Batch:
    """Some of the images asked for.

    Attributes:
        places: Place of each readable image among the rows asked for.
        digests: SHA-256 of the encoded bytes of each.
        signatures: `signature` of each, by which near-duplicates are found.
        pixels: (b, 3, H, W) as the transform gives them; None where no image of the batch is readable.
        failures: (place, reason) of each image that cannot be read.
    """

    places: list[int]
    digests: list[bytes]
    signatures: list[NDArray[np.int8]]
    pixels: Tensor | None
    failures: list[tuple[int, str]]

    def pin_memory(self) -> Batch:
        return replace(self, pixels=None if self.pixels is None else self.pixels.pin_memory())


@contextmanager
def load_batches(
    reader: ImageReader,
    rows: NDArray[np.int64],
    transform: Callable[[Image.Image], Tensor],
    *,
    batch_size: int,
    workers: int,
    shrink: Shrink | None = None,
    limits: DecodeLimits = DecodeLimits(),
    pin_memory: bool = False,
) -> Iterator[Iterator[Batch]]:
    """Within: batches of `batch_size` images each, the last one maybe smaller, in the order of `rows`.

    Args:
        reader: Gives the encoded images.
        rows: (N,) ascending rows to read.
        transform: RGB image -> (3, H, W) of any dtype; must pickle.
        batch_size: Images per batch.
        workers: Loader processes; 0 decodes in this process, and nothing overlaps.
        shrink: See `timm_gam.images.decoding.load_image`.
        limits: Likewise.
        pin_memory: Give batches in pinned memory, for a CUDA device.

    Raises:
        MachineError: within, a loader process was killed, or memory ran out, be it the device's.
    """
    batches = _Batches(reader, rows, transform, shrink, limits, batch_size)
    workers = workers if reader.parallel else min(workers, 1)
    with (
        memory_errors("use a smaller --batch-size or fewer --workers"),
        load_items(batches, range(0, len(rows), batch_size), workers=workers, pin_memory=pin_memory) as stream,
    ):
        yield stream


def no_pixels(image: Image.Image) -> Tensor:
    """A transform for who wants to know of images and has no use for their pixels."""
    return torch.zeros(1)


@dataclass(eq=False)
class _Batches(Dataset[Batch]):
    """First place -> batch.

    It holds no Python object per image: reading one writes its reference count, so each process would come to own a
    copy of the page it lies on.
    """

    reader: ImageReader
    rows: NDArray[np.int64]
    transform: Callable[[Image.Image], Tensor]
    shrink: Shrink | None
    limits: DecodeLimits
    batch_size: int
    stream: Iterator[tuple[int, EncodedImage]] | None = None

    def __getitem__(self, start: int) -> Batch:
        rows = self.rows[start : start + self.batch_size]
        places, digests, signatures, pixels, failures = [], [], [], [], []
        for place, (_, encoded) in zip(range(start, start + len(rows)), self._read(rows), strict=True):
            try:
                image, digest = load_image(encoded, str(place), self.shrink, self.limits)
            except UnreadableImageError as error:
                failures.append((place, error.reason))
            else:
                pixels.append(self.transform(image))
                places.append(place)
                digests.append(digest)
                signatures.append(signature(image))
        stacked = in_shared_memory(torch.stack(pixels)) if pixels else None
        return Batch(places, digests, signatures, stacked, failures)

    def _read(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, EncodedImage]]:
        """What can seek is asked batch by batch; a stream is read once, from its start, by one process."""
        if self.reader.parallel:
            return iter(self.reader.read(rows.tolist()))
        if self.stream is None:
            self.stream = iter(self.reader.read(self.rows.tolist()))
        return islice(self.stream, len(rows))
