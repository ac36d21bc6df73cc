"""Embeddings -> rankings: exactly where the relevant images of each query stand, in bounded memory.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` computes just that, block by block.

Scores are exact. Embeddings are first rounded to a fixed-point grid of 2^-24 (float32's own precision near 1),
so that every product is a multiple of 2^-48 and every partial sum of a score stays below 2^3: float64
represents them all without rounding. The order of summation then cannot change a score, so rankings and ties are
the same for every block size, thread count, BLAS library and order of files, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eval.errors import EmbeddingError

__all__ = ["DEFAULT_MEMORY_BUDGET", "Distance", "RelevantRanks", "fixed_point", "rank_relevant"]

Distance = Literal["cosine", "euclidean"]

DEFAULT_MEMORY_BUDGET = 512 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings it is given."""

_GRID = 2.0**24
_GALLERY_ROWS = 4096  # gallery rows cast to float64 at a time
_QUERY_ROWS = 1024  # beyond this, more rows no longer speed up the matrix product


@dataclass(frozen=True)
class RelevantRanks:
    """Where the relevant images of Q queries stand, as P (query, relevant image) pairs.

    Attributes:
        query: (Q,) int64, index of each query among all queries.
        row: (P,) int64 in [0, Q), ascending: the query of each pair.
        above: (P,) int64, gallery images that score strictly higher than the pair's relevant image.
        tied: (P,) int64 >= 1, gallery images with exactly its score, itself included.
    """

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]


def fixed_point(embeddings: NDArray[np.floating], distance: Distance = "cosine") -> NDArray[np.float32]:
    """Round embeddings to multiples of 2^-24, so that their scores can be computed exactly.

    For cosine each row is L2-normalised first (a zero row stays zero and scores 0 against everything); for
    Euclidean distance all rows are divided by one power of two, so that the longest has length at most 1.
    Each value is off by at most 2^-25, a score by about 2^-25 too: below what float32 arithmetic loses.

    Args:
        embeddings: (N, D) float, any float dtype.
        distance: "cosine" or "euclidean".

    Returns:
        (N, D) float32, every value an exact multiple of 2^-24 in [-1, 1].

    Raises:
        EmbeddingError: not a matrix, or a value that is not finite (the first such row is named).
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise EmbeddingError(f"embeddings have shape {embeddings.shape}; a matrix (N, D) with D >= 1 is needed")
    bad = next((int(i) + start for start, block in _row_blocks(embeddings) for i in _not_finite_rows(block)), None)
    if bad is not None:
        raise EmbeddingError(f"embedding of image {bad} holds NaN or infinity; check the weights and the precision")
    scale = np.float64(1.0)
    if distance == "euclidean":
        longest = max(float(_lengths(block).max(initial=0.0)) for _, block in _row_blocks(embeddings))
        scale = np.exp2(-np.ceil(np.log2(longest))) if longest > 0 else scale
    out = np.empty(embeddings.shape, dtype=np.float32)
    for start, block in _row_blocks(embeddings):
        if distance == "cosine":
            lengths = _lengths(block)
            block /= np.where(lengths > 0, lengths, 1.0)[:, None]
        out[start : start + len(block)] = np.rint(block * (scale * _GRID)) / _GRID
    return out


def rank_relevant(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_labels: NDArray[np.int64],
    gallery_labels: NDArray[np.int64],
    *,
    self_index: NDArray[np.int64] | None = None,
    distance: Distance = "cosine",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Iterator[RelevantRanks]:
    """Rank the gallery for every query and yield, block by block, where its relevant images stand.

    Score of query q and gallery image g: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance.
    Relevant: gallery images with the query's label.

    Args:
        queries: (Q, D) float32 from `fixed_point`.
        gallery: (N, D) float32 from the same call of `fixed_point` (one scale for both).
        query_labels: (Q,) int64.
        gallery_labels: (N,) int64.
        self_index: (Q,) int64, the gallery row that is the query itself, or -1 where it is not in the gallery.
            That row is left out by its identity, whatever its score: duplicates of the query stay.
        distance: As given to `fixed_point`.
        memory_budget: Bytes this function may use beyond its arguments. One row of N float64 scores per
            query is the least it can work with.

    Yields:
        RelevantRanks of consecutive blocks of queries, all queries once.
    """
    num_queries, num_gallery = len(queries), len(gallery)
    if self_index is None:
        self_index = np.full(num_queries, -1, dtype=np.int64)
    by_label = np.argsort(gallery_labels, kind="stable")
    sorted_labels = gallery_labels[by_label]
    first = np.searchsorted(sorted_labels, query_labels, side="left")
    last = np.searchsorted(sorted_labels, query_labels, side="right")

    dim = queries.shape[1]
    per_query = 8 * num_gallery + 8 * dim
    fixed = 8 * _GALLERY_ROWS * dim
    rows = int(np.clip((memory_budget - fixed) // max(per_query, 1), 1, _QUERY_ROWS))
    scores = np.empty((min(rows, num_queries), num_gallery), dtype=np.float64)
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, num_queries, rows):
            stop = min(start + rows, num_queries)
            block = scores[: stop - start]
            _score_into(block, queries[start:stop], gallery, distance)

            def rank_row(row: int, start: int = start, block: NDArray[np.float64] = block) -> _Pairs:
                query = start + row
                relevant = by_label[first[query] : last[query]]
                return _rank_row(block[row], relevant, int(self_index[query]))

            pairs = list(pool.map(rank_row, range(stop - start), chunksize=32))
            yield RelevantRanks(
                query=np.arange(start, stop, dtype=np.int64),
                row=np.repeat(np.arange(stop - start), [len(above) for above, _ in pairs]),
                above=np.concatenate([above for above, _ in pairs]),
                tied=np.concatenate([tied for _, tied in pairs]),
            )


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _rank_row(scores: NDArray[np.float64], relevant: NDArray[np.int64], itself: int) -> _Pairs:
    """(above, tied) of the relevant gallery rows of one query. Sorts `scores` in place."""
    if itself >= 0:
        relevant = relevant[relevant != itself]
        scores[itself] = -np.inf  # below every score, so it neither outranks nor ties with anything
    targets = np.sort(scores[relevant])[::-1]
    scores.sort()
    left = np.searchsorted(scores, targets, side="left")
    right = np.searchsorted(scores, targets, side="right")
    return len(scores) - right, right - left


def _score_into(
    out: NDArray[np.float64], queries: NDArray[np.float32], gallery: NDArray[np.float32], distance: Distance
) -> None:
    wide = queries.astype(np.float64)
    for start in range(0, len(gallery), _GALLERY_ROWS):
        part = gallery[start : start + _GALLERY_ROWS].astype(np.float64)
        target = out[:, start : start + len(part)]
        np.matmul(wide, part.T, out=target)
        if distance == "euclidean":
            target *= 2.0
            target -= np.einsum("nd,nd->n", part, part)
            target -= np.einsum("nd,nd->n", wide, wide)[:, None]


def _row_blocks(matrix: NDArray[np.floating]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(matrix), _GALLERY_ROWS):
        yield start, matrix[start : start + _GALLERY_ROWS].astype(np.float64)


def _lengths(block: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return lengths


def _not_finite_rows(block: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.flatnonzero(~np.isfinite(block).all(axis=1))
