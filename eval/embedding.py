"""Images -> embeddings: decoding in loader processes overlapped with the network, in bounded memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from eval.decoding import load_image
from eval.errors import EmbeddingError, UnreadableImageError
from eval.images import ImageSet

__all__ = [
    "EmbeddedBatch",
    "Embeddings",
    "OnUnreadable",
    "Transform",
    "default_workers",
    "embed_batches",
    "embed_images",
    "ignore_interrupts",
]

Transform = Callable[[Image.Image], Tensor]
"""Preprocessing: an RGB image -> (3, H, W) float32."""

OnUnreadable = Literal["raise", "skip"]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the readable images among those asked for.

    Attributes:
        vectors: (N, D) float32, finite.
        rows: (N,) int64 ascending rows of the image set.
        digests: N SHA-256 digests of the images' encoded bytes.
        unreadable: Image id -> reason, for images that were skipped.
        seconds: Wall time of the whole pass.
    """

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    digests: tuple[bytes, ...]
    unreadable: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class EmbeddedBatch:
    """What became of one batch.

    Attributes:
        rows: (b,) int64 ascending rows of the image set, readable images only.
        vectors: (b, D) float32, finite; (0, 0) where no image is readable.
        digests: b SHA-256 digests of the encoded bytes that were decoded.
        unreadable: Image id -> reason, for images that were skipped.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    digests: tuple[bytes, ...]
    unreadable: dict[str, str]


@dataclass(frozen=True)
class _Batch:
    places: list[int]
    digests: list[bytes]
    pixels: Tensor | None  # (b, 3, H, W) float32, None where no image of the batch is readable
    failures: list[tuple[str, str]]  # (image id, reason)


def embed_images(
    network: nn.Module,
    images: ImageSet,
    transform: Transform,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str | torch.device = "cpu",
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    on_unreadable: OnUnreadable = "raise",
    on_progress: Callable[[int], None] = lambda images: None,
) -> Embeddings:
    """Embed images of an image set.

    Every batch has `batch_size` rows (the last is padded and the padding dropped), so an image meets the same
    kernels wherever it stands and a compiled network is compiled once.

    Args:
        network: (B, 3, H, W) float32 -> (B, D), in eval mode; moved to `device`.
        images: The image set.
        transform: Preprocessing of one image; must pickle.
        rows: Ascending rows of `images` to embed; default all.
        batch_size: Images per forward pass.
        workers: Loader processes; default `default_workers(device)`; 0 decodes in this process.
        device: Where the network runs.
        amp_dtype: torch.float16 or torch.bfloat16 for automatic mixed precision, None for float32.
        channels_last: Run the network in channels_last memory format.
        on_unreadable: "raise" ends at the first image that cannot be read, "skip" records it and goes on.
        on_progress: Called with the number of images just embedded or skipped.

    Raises:
        UnreadableImageError: an image cannot be decoded and `on_unreadable` is "raise".
        EmbeddingError: an embedding is not finite, not a vector, or no image could be read.
    """
    wanted = np.arange(len(images), dtype=np.int64) if rows is None else rows
    began = time.perf_counter()
    vectors: NDArray[np.float32] | None = None
    digests: list[bytes | None] = [None] * len(wanted)
    unreadable: dict[str, str] = {}

    def take(batch: EmbeddedBatch) -> None:
        nonlocal vectors
        unreadable.update(batch.unreadable)
        if len(batch.rows):
            if vectors is None:
                vectors = np.zeros((len(wanted), batch.vectors.shape[1]), dtype=np.float32)
            places = np.searchsorted(wanted, batch.rows)
            vectors[places] = batch.vectors
            for place, digest in zip(places.tolist(), batch.digests, strict=True):
                digests[place] = digest
        on_progress(len(batch.rows) + len(batch.unreadable))

    embed_batches(
        network,
        images,
        transform,
        take,
        rows=wanted,
        batch_size=batch_size,
        workers=workers,
        device=device,
        amp_dtype=amp_dtype,
        channels_last=channels_last,
        on_unreadable=on_unreadable,
    )
    if vectors is None:
        raise EmbeddingError(f"none of {len(wanted)} images of '{images.name}' could be read")
    read = np.array([digest is not None for digest in digests])
    return Embeddings(
        vectors=vectors if read.all() else vectors[read],
        rows=wanted[read],
        digests=tuple(digest for digest in digests if digest is not None),
        unreadable=unreadable,
        seconds=time.perf_counter() - began,
    )


def embed_batches(
    network: nn.Module,
    images: ImageSet,
    transform: Transform,
    take: Callable[[EmbeddedBatch], None],
    *,
    rows: NDArray[np.int64],
    batch_size: int = 32,
    workers: int | None = None,
    device: str | torch.device = "cpu",
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    on_unreadable: OnUnreadable = "raise",
) -> None:
    """Embed images and hand over each batch as soon as it is there; see `embed_images`.

    Raises:
        UnreadableImageError: an image cannot be decoded and `on_unreadable` is "raise".
        EmbeddingError: an embedding is not finite or not a vector.
    """
    device = torch.device(device)
    workers = default_workers(device) if workers is None else workers
    if not images.reader.parallel:
        workers = min(workers, 1)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device).to(memory_format=memory_format)
    amp: Any = torch.autocast(device.type, dtype=amp_dtype) if amp_dtype is not None else nullcontext()
    with torch.inference_mode(), amp:
        for batch in _loader(images, rows, transform, batch_size, workers, device):
            if batch.failures and on_unreadable == "raise":
                raise UnreadableImageError(*batch.failures[0])
            vectors = np.empty((0, 0), dtype=np.float32)
            if batch.pixels is not None:
                pixels = _padded(batch.pixels, batch_size).to(
                    device=device, memory_format=memory_format, non_blocking=True
                )
                vectors = network(pixels)[: len(batch.places)].float().cpu().numpy()
                _refuse_wrong(vectors, [images.ids[rows[place]] for place in batch.places])
            embedded = rows[np.array(batch.places, dtype=np.int64)]
            take(EmbeddedBatch(embedded, vectors, tuple(batch.digests), dict(batch.failures)))


def default_workers(device: str | torch.device = "cpu") -> int:
    """Loader processes that suit this machine: few beside a CPU network, more where an accelerator waits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 2) if torch.device(device).type == "cpu" else min(cores, 16)


class _BatchStream(IterableDataset[_Batch]):
    """Whole preprocessed batches, shared out among loader processes batch by batch."""

    def __init__(self, images: ImageSet, wanted: NDArray[np.int64], transform: Transform, batch_size: int) -> None:
        self.images, self.wanted, self.transform, self.batch_size = images, wanted, transform, batch_size

    def __iter__(self) -> Iterator[_Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        starts = range(worker * self.batch_size, len(self.wanted), workers * self.batch_size)
        mine = [place for start in starts for place in range(start, min(start + self.batch_size, len(self.wanted)))]
        encoded = self.images.reader.read([int(self.wanted[place]) for place in mine])
        batch = _Batch([], [], None, [])
        pixels: list[Tensor] = []
        for read, (place, (row, source)) in enumerate(zip(mine, encoded, strict=True), start=1):
            image_id = self.images.ids[row]
            try:
                image, digest = load_image(source, image_id)
            except UnreadableImageError as error:
                batch.failures.append((error.image_id, error.reason))
            else:
                pixels.append(self.transform(image))
                batch.places.append(place)
                batch.digests.append(digest)
            if read % self.batch_size == 0 or read == len(mine):
                stacked = torch.stack(pixels) if pixels else None
                yield _Batch(batch.places, batch.digests, stacked, batch.failures)
                batch, pixels = _Batch([], [], None, []), []


def _loader(
    images: ImageSet,
    wanted: NDArray[np.int64],
    transform: Transform,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> DataLoader[_Batch]:
    return DataLoader(
        _BatchStream(images, wanted, transform, batch_size),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=ignore_interrupts if workers else None,
        pin_memory=device.type == "cuda",
    )


def ignore_interrupts(worker: int) -> None:
    """Let Ctrl-C, which reaches every process of the group, end the main one alone: it stops the loader processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _padded(pixels: Tensor, batch_size: int) -> Tensor:
    missing = batch_size - len(pixels)
    return pixels if missing <= 0 else torch.cat([pixels, pixels[:1].expand(missing, *pixels.shape[1:])])


def _refuse_wrong(vectors: NDArray[np.float32], ids: list[str]) -> None:
    if vectors.ndim != 2:
        raise EmbeddingError(f"the network gave shape {vectors.shape} for a batch; embeddings (B, D) are needed")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EmbeddingError(
            f"embedding of image '{ids[bad[0]]}' holds NaN or infinity; check the weights, or score without --amp"
        )
