"""Images -> embeddings: decoding in loader processes overlapped with the network, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.decoding import Shrink
from eval.digests import Digests
from eval.errors import EmbeddingError, UnreadableImageError
from eval.images import ImageSet
from eval.loading import default_workers, load_batches
from eval.preprocessing import Preprocessing, Transform

__all__ = ["EmbeddedBatch", "Embeddings", "OnUnreadable", "embed_batches", "embed_images"]

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
    digests: Digests
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


def embed_images(
    network: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing | Transform,
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
        preprocessing: A `Preprocessing` normalises whole batches on `device`, so that uint8 pixels travel there; any
            other callable gives float32 itself, and must pickle.
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
        MachineError: a loader process was killed, or memory ran out.
        EmbeddingError: an embedding is not finite, not a vector, or no image could be read.
    """
    wanted = np.arange(len(images), dtype=np.int64) if rows is None else rows
    began = time.perf_counter()
    vectors: NDArray[np.float32] | None = None
    digests = Digests.none(len(wanted))
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
        preprocessing,
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
    read = digests.known
    return Embeddings(
        vectors=vectors if read.all() else vectors[read],
        rows=wanted[read],
        digests=digests.take(read),
        unreadable=unreadable,
        seconds=time.perf_counter() - began,
    )


def embed_batches(
    network: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing | Transform,
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
        MachineError: a loader process was killed, or memory ran out.
        EmbeddingError: an embedding is not finite or not a vector.
    """
    device = torch.device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device).to(memory_format=memory_format)
    amp: Any = torch.autocast(device.type, dtype=amp_dtype) if amp_dtype is not None else nullcontext()
    transform, normalise, shrink = _steps(preprocessing)
    loaded = load_batches(
        images.reader,
        rows,
        transform,
        batch_size=batch_size,
        workers=default_workers(device) if workers is None else workers,
        shrink=shrink,
        pin_memory=device.type == "cuda",
    )
    with loaded as batches, torch.inference_mode(), amp:
        for batch in batches:
            unreadable = {images.ids[rows[place]]: reason for place, reason in batch.failures}
            if unreadable and on_unreadable == "raise":
                raise UnreadableImageError(*next(iter(unreadable.items())))
            vectors = np.empty((0, 0), dtype=np.float32)
            embedded = rows[np.array(batch.places, dtype=np.int64)]
            if batch.pixels is not None:
                pixels = _padded(batch.pixels, batch_size).to(
                    device=device, memory_format=memory_format, non_blocking=True
                )
                vectors = network(normalise(pixels))[: len(batch.places)].float().cpu().numpy()
                _refuse_wrong(vectors, embedded, images)
            take(EmbeddedBatch(embedded, vectors, tuple(batch.digests), unreadable))


def _steps(
    preprocessing: Preprocessing | Transform,
) -> tuple[Transform, Callable[[Tensor], Tensor], Shrink | None]:
    """What a loader process does with an image, what is done with a batch on the device, and how JPEGs are shrunk."""
    if isinstance(preprocessing, Preprocessing):
        shrink = preprocessing.shrink if preprocessing.shrink_on_load else None
        return preprocessing.pixels(), preprocessing.normalise, shrink
    return preprocessing, lambda pixels: pixels, None


def _padded(pixels: Tensor, batch_size: int) -> Tensor:
    missing = batch_size - len(pixels)
    return pixels if missing <= 0 else torch.cat([pixels, pixels[:1].expand(missing, *pixels.shape[1:])])


def _refuse_wrong(vectors: NDArray[np.float32], rows: NDArray[np.int64], images: ImageSet) -> None:
    if vectors.ndim != 2:
        raise EmbeddingError(f"the network gave shape {vectors.shape} for a batch; embeddings (B, D) are needed")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EmbeddingError(
            f"embedding of image '{images.ids[rows[bad[0]]]}' holds NaN or infinity; check the weights, and if it "
            "was with --amp, score without"
        )
