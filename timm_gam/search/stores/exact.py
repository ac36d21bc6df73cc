"""Embeddings in files, searched exactly; the reference for the other store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import ProgressBar, available_memory, no_progress
from timm_gam.embed import FileStore
from timm_gam.images import Digests
from timm_gam.search.exact import nearest
from timm_gam.search.integer_vectors import FixedPoint, fixed_point
from timm_gam.search.photos.catalogue import Catalogue, PhotoFilter
from timm_gam.search.stores.store import Found


class ExactStore:
    """Finds by the full cosines of the embeddings, which are mapped from disk: the system keeps in memory what fits.

    A store makes what it searches in of the embeddings in a `FileStore`, the same that an evaluation's cache is, and
    can do so again whenever that is lost.

    Args:
        catalogue: Says which photographs there are.
        embeddings: Of a collection.
    """

    def __init__(self, catalogue: Catalogue, embeddings: FileStore) -> None:
        self._catalogue, self._embeddings = catalogue, embeddings
        self._prepared: tuple[tuple[Path, ...], NDArray[np.float32], FixedPoint] | None = None
        self._rows = lru_cache(4)(self._found)

    def plan(self, count: int, dim: int) -> str:
        """What so many embeddings of that dimension will take, to be told before they are made, or "".

        Searching reads every vector, so that those that do not fit in memory are slow.
        """
        takes, free = 4 * count * dim, available_memory()
        if free is not None and takes > free:
            return (
                f"note: {count:,} vectors of {dim} dimensions are {takes / 2**30:.1f} GB, and {free / 2**30:.1f} GB of "
                "memory are free; each query reads them all: choose --store milvus or a server"
            )
        return ""

    def update(self, progress: ProgressBar = no_progress) -> None:
        """Search in what the catalogue has now: there is nothing to do, as that is in the embeddings themselves."""

    def nearest(
        self, queries: NDArray[np.float32], k: int, chosen: PhotoFilter | None = None
    ) -> Sequence[Sequence[Found]]:
        """The k nearest of each query by cosine, nearest first; fewer where there are fewer.

        Args:
            queries: (Q, D) float32 embeddings.
            k: How many.
            chosen: Which photographs may be found.
        """
        paths, vectors, points = self._gallery()
        digests, rows = self._rows(chosen or PhotoFilter(), (self._catalogue.version(), paths))
        k = min(k, len(rows))
        if k == 0:
            return [[] for _ in queries]
        found = nearest(fixed_point(queries), points.take(rows), k).rows
        left, right = (torch.from_numpy(each.astype(np.float64)) for each in (queries[:, None], vectors[rows[found]]))
        # Integer vectors differ from these by up to 2^-26, so that very near ones can stand in the other order.
        cosines, order = torch.cosine_similarity(left, right, dim=2).sort(dim=1, descending=True, stable=True)
        places = torch.from_numpy(found).gather(1, order)
        return [
            [Found(digests[place], score) for place, score in zip(*pair, strict=True)]
            for pair in zip(places.tolist(), cosines.tolist(), strict=True)
        ]

    def _found(self, chosen: PhotoFilter, version: object) -> tuple[Digests, NDArray[np.int64]]:
        """The photographs that may be found, and their rows in the gallery, in a `version` of catalogue and parts."""
        digests = self._catalogue.digests(chosen)
        rows = self._embeddings.rows(digests)
        return digests.take(rows >= 0), rows[rows >= 0]

    def _gallery(self) -> tuple[tuple[Path, ...], NDArray[np.float32], FixedPoint]:
        """Paths of all parts, their vectors end to end, and the same prepared for exact scores."""
        parts = self._embeddings.parts()
        paths = tuple(part.path for part in parts)
        if self._prepared is None or self._prepared[0] != paths:
            vectors = (
                parts[0].vectors if len(parts) == 1 else np.concatenate([part.vectors for part in parts] or [_NONE])
            )
            self._prepared = paths, vectors, fixed_point(vectors)
        return self._prepared


_NONE = np.empty((0, 1), dtype=np.float32)
