"""Images -> embeddings: decoding in loader processes overlapped with the network, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from timm_gam.core import EmbeddingError, UnreadableImageError
from timm_gam.data import ImageSet
from timm_gam.embed.settings import EmbedSettings
from timm_gam.images import (
    SIGNATURE_BYTES,
    Digests,
    Preprocessing,
    Shrink,
    Transform,
    default_workers,
    load_batches,
)


@dataclass(frozen=True)
class EmbeddedBatch:
    """What became of some images.

    Attributes:
        rows: (N,) int64 ascending rows of the image set, readable images only.
        vectors: (N, D) float32, finite; (0, 0) where no image is readable.
        digests: N SHA-256 digests of the encoded bytes that were decoded.
        unreadable: Image id -> reason, for images that were skipped.
        signatures: (N, 256) int8, as `timm_gam.images.signature` makes them.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    digests: Sequence[bytes]
    unreadable: dict[str, str]
    signatures: NDArray[np.int8]


@dataclass(frozen=True)
class Embeddings(EmbeddedBatch):
    """What became of all images asked for, and the wall time of the whole pass in seconds."""

    digests: Digests
    seconds: float


def embed_images(
    network: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing | Transform,
    settings: EmbedSettings = EmbedSettings(),
    *,
    rows: NDArray[np.int64] | None = None,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Embeddings:
    """Embed images of an image set.

    Every batch has `settings.batch_size` rows (the last is padded and the padding dropped), so an image meets the same
    kernels wherever it stands and a compiled network is compiled once.

    Args:
        network: (B, 3, H, W) float32 -> (B, D), in eval mode; moved to `device`.
        images: The image set.
        preprocessing: A `Preprocessing` normalises whole batches on `device`, so that uint8 pixels travel there; any
            other callable gives float32 itself, and must pickle.
        settings: How; only what concerns running `network` is used: it is the network already.
        rows: Ascending rows of `images` to embed; default all.
        on_progress: Called with the number of images just embedded or skipped.

    Raises:
        UnreadableImageError: an image cannot be decoded and `settings.on_unreadable` is "raise".
        MachineError: a loader process was killed, or memory ran out.
        EmbeddingError: an embedding is not finite, not a vector, or no image could be read.

    >>> from timm_gam.data import draw_synthetic
    >>> from timm_gam.images import resolve_preprocessing
    >>> import timm
    >>> model = timm.create_model("test_resnet_gam", num_classes=0).eval()
    >>> images, settings = draw_synthetic(1), EmbedSettings(workers=0)
    >>> embed_images(model, images, resolve_preprocessing(model, img_size=64), settings).vectors.shape
    (30, 96)
    """
    wanted = np.arange(len(images), dtype=np.int64) if rows is None else rows
    began = time.perf_counter()
    made = BatchTable(wanted, on_progress)
    embed_batches(network, images, preprocessing, made.take, settings, rows=wanted)
    read = made.digests.known
    if not read.any():
        raise EmbeddingError(f"none of {len(wanted)} images of '{images.name}' could be read")
    vectors, seconds = made.vectors if read.all() else made.vectors[read], time.perf_counter() - began
    return Embeddings(wanted[read], vectors, made.digests.take(read), made.unreadable, made.signatures[read], seconds)


class BatchTable:
    """What becomes of N images, batch by batch.

    Args:
        rows: (N,) int64 ascending.
        on_progress: Called with the number of images of each batch.
        keep_vectors: Whether there is room for all.

    Attributes:
        vectors: (N, D) float32; (N, 0) before any came.
        digests: N of them, none of what is not readable.
        signatures: (N, 256) int8.
        unreadable: Image id -> reason.
    """

    def __init__(
        self, rows: NDArray[np.int64], on_progress: Callable[[int], None], *, keep_vectors: bool = True
    ) -> None:
        self._rows, self._on_progress, self._keep_vectors = rows, on_progress, keep_vectors
        self.vectors = np.empty((len(rows), 0), dtype=np.float32)
        self.digests = Digests.none(len(rows))
        self.signatures = np.zeros((len(rows), SIGNATURE_BYTES), dtype=np.int8)
        self.unreadable: dict[str, str] = {}

    def take(self, batch: EmbeddedBatch) -> None:
        """Enter a batch."""
        self.unreadable.update(batch.unreadable)
        if len(batch.rows):
            places = np.searchsorted(self._rows, batch.rows)
            self.digests.table[places] = Digests.of(batch.digests).table
            self.signatures[places] = batch.signatures
            if self._keep_vectors:
                if not self.vectors.size:
                    self.vectors = np.zeros((len(self._rows), batch.vectors.shape[1]), dtype=np.float32)
                self.vectors[places] = batch.vectors
        self._on_progress(len(batch.rows) + len(batch.unreadable))


def embed_batches(
    network: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing | Transform,
    take: Callable[[EmbeddedBatch], None],
    settings: EmbedSettings,
    *,
    rows: NDArray[np.int64],
) -> None:
    """Embed images and hand over each batch as soon as it is there; see `embed_images`.

    Raises:
        UnreadableImageError: an image cannot be decoded and `settings.on_unreadable` is "raise".
        MachineError: a loader process was killed, or memory ran out.
        EmbeddingError: an embedding is not finite or not a vector.
    """
    device, batch_size = torch.device(settings.device), settings.batch_size
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    network = network.to(device).to(memory_format=memory_format)
    amp: Any = nullcontext()
    if settings.amp_dtype is not None:
        amp = torch.autocast(device.type, dtype=settings.amp_dtype)
    transform, normalise, shrink = _steps(preprocessing)
    loaded = load_batches(
        images.reader,
        rows,
        transform,
        batch_size=batch_size,
        workers=default_workers(device) if settings.workers is None else settings.workers,
        shrink=shrink,
        limits=settings.limits,
        pin_memory=device.type == "cuda",
    )
    with loaded as batches, torch.inference_mode(), amp:
        for batch in batches:
            unreadable = {images.ids[rows[place]]: reason for place, reason in batch.failures}
            if unreadable and settings.on_unreadable == "raise":
                raise UnreadableImageError(*next(iter(unreadable.items())))
            vectors = np.empty((0, 0), dtype=np.float32)
            embedded = rows[np.array(batch.places, dtype=np.int64)]
            if batch.pixels is not None:
                padding = batch.pixels[:1].expand(batch_size - len(batch.pixels), *batch.pixels.shape[1:])
                pixels = torch.cat([batch.pixels, padding]) if len(padding) else batch.pixels
                pixels = pixels.to(device=device, memory_format=memory_format, non_blocking=True)
                vectors = network(normalise(pixels))[: len(batch.places)].float().cpu().numpy()
                _check_vectors(vectors, embedded, images)
            signatures = np.array(batch.signatures, dtype=np.int8).reshape(-1, SIGNATURE_BYTES)
            take(EmbeddedBatch(embedded, vectors, tuple(batch.digests), unreadable, signatures))


def _steps(
    preprocessing: Preprocessing | Transform,
) -> tuple[Transform, Callable[[Tensor], Tensor], Shrink | None]:
    """What a loader process does with an image, what is done with a batch on the device, and how JPEGs are shrunk."""
    if isinstance(preprocessing, Preprocessing):
        shrink = preprocessing.shrink if preprocessing.shrink_on_load else None
        return preprocessing.pixels(), preprocessing.normalise, shrink
    return preprocessing, lambda pixels: pixels, None


def _check_vectors(vectors: NDArray[np.float32], rows: NDArray[np.int64], images: ImageSet) -> None:
    if vectors.ndim != 2:
        raise EmbeddingError(f"the network gave shape {vectors.shape} for a batch; embeddings (B, D) are needed")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EmbeddingError(
            f"embedding of image '{images.ids[rows[bad[0]]]}' holds NaN or infinity; check the weights, and if it "
            "was with --amp, score without"
        )
