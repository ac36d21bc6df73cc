"""Embeddings kept under the SHA-256 of the bytes of the image that each was made from.

A store belongs to one `Embedder.key`: the hash of the weights, the layer, the preprocessing, the precision and the
versions of the packages that compute. Nothing is found by a path, a name or a time, so no kept embedding can be stale,
and those of one image set, protocol or photo index serve every other. The evaluation's cache and the photo search
are both made of these three calls:

    missing(digests)        what is to be embedded
    add(digests, vectors)   kept once this returns, whatever ends the process
    read(digests)           the vectors, in this order
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timm_gam.embed.embedding import EmbeddedBatch
from timm_gam.images import Digests

PART_IMAGES = 4096
PART_SECONDS = 60.0


class VectorStore(Protocol):
    """Embeddings by digest. A digest that is unknown (b"") is always missing and never added."""

    def missing(self, digests: Digests) -> NDArray[np.bool_]:
        """(N,) whether there is no embedding of each."""

    def add(self, digests: Digests, vectors: NDArray[np.float32]) -> None:
        """Keep (N, D) float32 embeddings of N digests; of one that is there already, the first is kept.

        Raises:
            OutputError: they cannot be kept; what was there before still is.
        """

    def read(self, digests: Digests) -> NDArray[np.float32]:
        """(N, D) float32 embeddings, maybe mapped from a file and not to be written to.

        Raises:
            LookupError: one of them is missing.
        """


class MemoryStore:
    """Embeddings in memory.

    Args:
        capacity: How many will come at most; room for them is taken when the first come.

    >>> store = MemoryStore(2)
    >>> digests = Digests.of([b"a" * 32, b"b" * 32])
    >>> store.add(digests[:1], np.ones((1, 3), dtype=np.float32))
    >>> store.missing(digests).tolist()
    [False, True]
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: dict[bytes, int] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    def missing(self, digests: Digests) -> NDArray[np.bool_]:
        """See `VectorStore`."""
        return np.array([digest not in self._rows for digest in digests], dtype=np.bool_)

    def add(self, digests: Digests, vectors: NDArray[np.float32]) -> None:
        """See `VectorStore`."""
        if not self._rows:
            self._vectors = np.empty((self._capacity, vectors.shape[1]), dtype=np.float32)
        for digest, vector in zip(digests, vectors, strict=True):
            if digest and digest not in self._rows:
                self._vectors[len(self._rows)] = vector
                self._rows[digest] = len(self._rows)

    def read(self, digests: Digests) -> NDArray[np.float32]:
        """See `VectorStore`."""
        rows = np.array([self._rows[digest] for digest in digests], dtype=np.int64)
        if np.array_equal(rows, np.arange(len(self._rows))):
            return self._vectors[: len(rows)]
        return self._vectors[rows]


@contextmanager
def buffered(store: VectorStore) -> Iterator[Callable[[EmbeddedBatch], None]]:
    """Within: batches are added a few thousand images or a minute at a time, the rest at the end however it comes."""
    waiting: list[EmbeddedBatch] = []
    began = time.monotonic()

    def flush() -> None:
        nonlocal began
        digests = [digest for batch in waiting for digest in batch.digests]
        vectors = [batch.vectors for batch in waiting if len(batch.rows)]
        waiting.clear()
        began = time.monotonic()
        if vectors:
            store.add(Digests.of(digests), np.concatenate(vectors))

    def take(batch: EmbeddedBatch) -> None:
        waiting.append(batch)
        images = sum(len(batch.rows) for batch in waiting)
        if images >= PART_IMAGES or time.monotonic() - began >= PART_SECONDS:
            flush()

    try:
        yield take
    finally:
        flush()
