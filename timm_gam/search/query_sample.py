"""Queries with their exact answer, and the recall of any other search against it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.search.exact import Neighbours, nearest, on_one_scale, pair_scores
from timm_gam.search.integer_vectors import Distance, FixedPoint, fixed_point


@dataclass(frozen=True)
class QuerySample:
    """Queries with their exact answer.

    Attributes:
        queries: (Q, D) float.
        points: Queries and gallery, prepared for exact scores.
        exact: The exact neighbours of each query.
        exact_seconds: What they took.
        self_index: (Q,) int64 gallery row of each query, None where queries are not of the gallery.
    """

    queries: NDArray[np.floating]
    points: tuple[FixedPoint, FixedPoint]
    exact: Neighbours
    exact_seconds: float
    self_index: NDArray[np.int64] | None

    @property
    def k(self) -> int:
        """How many neighbours of each query are known."""
        return int(self.exact.rows.shape[1])

    def part(self, rows: NDArray[np.int64]) -> QuerySample:
        """Some of the queries."""
        return QuerySample(
            self.queries[rows],
            (self.points[0].take(rows), self.points[1]),
            Neighbours(self.exact.rows[rows], self.exact.scores[rows]),
            self.exact_seconds * len(rows) / len(self.queries),
            None if self.self_index is None else self.self_index[rows],
        )

    def halves(self, seed: int = 0) -> tuple[QuerySample, QuerySample]:
        """Two random halves: one to tune with, one to measure on."""
        order = np.random.default_rng(seed).permutation(len(self.queries))
        first, second = (self.part(np.sort(rows)) for rows in np.array_split(order, 2))
        return first, second

    def recall(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        """`recall_against_exact` of (Q, k or more) gallery rows."""
        return recall_against_exact(found, self.exact, *self.points, self_index=self.self_index)


def sample_queries(
    gallery: NDArray[np.floating],
    queries: NDArray[np.floating] | None = None,
    *,
    distance: Distance = "cosine",
    k: int = 10,
    sample: int = 2000,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda products: None,
) -> QuerySample:
    """Draw at most `sample` queries, of the gallery itself where none are given, and answer them exactly.

    Args:
        gallery: (N, D) float, in memory or memory-mapped.
        queries: (Q, D) float; None takes rows of the gallery, which then do not find themselves.
        distance: "cosine" or "euclidean".
        k: How many neighbours.
        sample: The most queries, at least 2.
        seed: Of the draw.
        on_progress: Called with the number of (query, gallery image) pairs just scored.

    Raises:
        EmbeddingError, DataError: embeddings that cannot be scored, or too few.

    >>> vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    >>> sampled = sample_queries(vectors, sample=20, k=5)
    >>> sampled.exact.rows.shape, float(sampled.recall(sampled.exact.rows).mean())
    ((20, 5), 1.0)
    """
    source = gallery if queries is None else queries
    if len(source) < 2:
        raise DataError(f"{len(source)} queries came; at least 2 are needed, to tune with and to measure")
    drawn = np.random.default_rng(seed).choice(len(source), size=min(sample, len(source)), replace=False)
    rows = np.sort(drawn).astype(np.int64)
    chosen = np.asarray(source[rows])
    whole = fixed_point(gallery, distance)  # first: an error names a row of it, not a place among those drawn
    points = on_one_scale(fixed_point(chosen, distance), whole)
    itself = rows if queries is None else None
    began = time.perf_counter()
    exact = nearest(*points, k, self_index=itself, on_progress=on_progress)
    return QuerySample(chosen, points, exact, time.perf_counter() - began, itself)


def recall_against_exact(
    found: NDArray[np.int64],
    exact: Neighbours,
    queries: FixedPoint,
    gallery: FixedPoint,
    *,
    self_index: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """recall@k of another search: the share of its first k that score as high as the exact k-th neighbour.

    Of images that tie at rank k any may be returned. The query itself, a row returned twice and a place left empty (-1)
    count for nothing.

    Args:
        found: (Q, k or more) int64 gallery rows, best first, -1 for an empty place.
        exact: From `nearest` of the same queries and gallery; its width is k.
        queries: Q vectors.
        gallery: N vectors on the same scale.
        self_index: As given to `nearest`.

    Returns:
        (Q,) float64 in [0, 1].
    """
    k = exact.rows.shape[1]
    rows = np.sort(found[:, :k], axis=1)
    real = rows >= 0
    real[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    if self_index is not None:
        real &= rows != self_index[:, None]
    scores = pair_scores(queries, gallery, np.maximum(rows, 0))
    recall: NDArray[np.float64] = (real & (scores >= exact.scores[:, -1:])).sum(axis=1) / k
    return recall
