"""Where the vectors that are searched are kept: a store of embeddings that also finds the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timm_gam.embed import FileStore, VectorStore
from timm_gam.images import Digests
from timm_gam.search.exact import nearest
from timm_gam.search.integer_vectors import FixedPoint, fixed_point


class SearchStore(VectorStore, Protocol):
    """A `VectorStore` that answers queries."""

    def nearest(
        self, queries: NDArray[np.float32], k: int, among: Digests
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k nearest of each query by cosine.

        Args:
            queries: (Q, D) float32.
            k: How many; fewer come where fewer are there.
            among: The digests that may be found, in ascending order; those that are missing are not.

        Returns:
            (Q, K) int64 places in `among`, nearest first, -1 where there are no more; (Q, K) float64 cosines.
        """

    def finish(self, digests: Digests) -> None:
        """After an update: make what was added quick to read, and let go of everything but these."""


class ExactStore(FileStore):
    """Vectors in files, searched exactly with `timm_gam.search.nearest`; the reference for every other store."""

    _prepared: tuple[list[Path], NDArray[np.float32], FixedPoint] | None = None

    def nearest(
        self, queries: NDArray[np.float32], k: int, among: Digests
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `SearchStore`."""
        rows = self.rows(among)
        present = np.flatnonzero(rows >= 0)
        k = min(k, len(present))
        if k == 0:
            return np.empty((len(queries), 0), dtype=np.int64), np.empty((len(queries), 0))
        (vectors, points), rows = self._gallery(), rows[present]
        found = nearest(fixed_point(queries), points.take(rows), k).rows
        return present[found], _cosines(queries, vectors, rows[found])

    def finish(self, digests: Digests) -> None:
        """See `SearchStore`."""
        if len(digests):
            self.compact(digests, keep_others=False)

    def _gallery(self) -> tuple[NDArray[np.float32], FixedPoint]:
        """The vectors of all parts, end to end, and the same prepared for exact scores."""
        parts = self.parts()
        names = [part.path for part in parts]
        if self._prepared is None or self._prepared[0] != names:
            vectors = parts[0].vectors if len(parts) == 1 else np.concatenate([part.vectors for part in parts])
            self._prepared = names, vectors, fixed_point(vectors)
        return self._prepared[1:]


def _cosines(
    queries: NDArray[np.float32], vectors: NDArray[np.floating], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(Q, K) float64 cosines of each query and its own K rows."""
    left = queries.astype(np.float64)
    right = vectors[rows].astype(np.float64)
    products = np.einsum("qd,qkd->qk", left, right)
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=2)
    cosines: NDArray[np.float64] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines
