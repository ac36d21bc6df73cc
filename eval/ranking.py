"""Embeddings -> rankings: exactly where the relevant images of each query stand, in bounded memory.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` counts just that, block by block of the score matrix, and
never sorts a gallery.

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
import torch
from numpy.typing import NDArray

from eval.errors import EmbeddingError

__all__ = ["DEFAULT_MEMORY_BUDGET", "Distance", "RelevantRanks", "fixed_point", "rank_relevant"]

Distance = Literal["cosine", "euclidean"]

DEFAULT_MEMORY_BUDGET = 512 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings it is given."""

_GRID = 2.0**24
_LARGEST_BLOCK = 2048  # rows and columns of a score block; larger ones no longer speed up the matrix product
_SORTED_ROWS = 64  # rows one thread sorts at a time, and the smallest block
_YIELDED_QUERIES = 1024
_CAST_ROWS = 4096  # embeddings rounded at a time
_BYTES_PER_PAIR = 24  # of the counters: a score, the number above it and the number tied with it


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
    """Rank the gallery for every query and yield, group by group, where its relevant images stand.

    Score of query q and gallery image g: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance.
    Relevant: gallery images with the query's label. Where queries and gallery are one array, its scores are
    symmetric and each is computed once.

    Args:
        queries: (Q, D) float32 from `fixed_point`.
        gallery: (N, D) float32 from the same call of `fixed_point` (one scale for both).
        query_labels: (Q,) int64.
        gallery_labels: (N,) int64.
        self_index: (Q,) int64, the gallery row that is the query itself, or -1 where it is not in the gallery.
            That row is left out by its identity, whatever its score: duplicates of the query stay.
        distance: As given to `fixed_point`.
        memory_budget: Bytes this function may use beyond its arguments. What a single query needs, about
            32 bytes per relevant image, is always taken.

    Yields:
        RelevantRanks of consecutive groups of queries, all queries once.
    """
    if self_index is None:
        self_index = np.full(len(queries), -1, dtype=np.int64)
    relevant = _RelevantRows(query_labels, gallery_labels)
    block = _block_size(queries.shape[1], memory_budget // 2)
    groups = list(_query_groups(relevant.counts, memory_budget // 2))
    symmetric = queries is gallery and len(groups) == 1
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for group in groups:
            targets = _target_scores(queries, gallery, relevant, self_index, distance, group, block)
            counter = _RankCounter(group, targets, self_index, pool)
            for rows in _slices(group.start, group.stop, block):
                for columns in _slices(rows.start if symmetric else 0, len(gallery), block):
                    scores = _scores(queries[rows], gallery[columns], distance)
                    mirrored = np.ascontiguousarray(scores.T) if symmetric and rows != columns else None
                    counter.count(rows, columns, scores)
                    if mirrored is not None:
                        counter.count(columns, rows, mirrored)
            yield from counter.ranks()


class _RelevantRows:
    """The gallery rows relevant to each query, found by label."""

    def __init__(self, query_labels: NDArray[np.int64], gallery_labels: NDArray[np.int64]) -> None:
        self.by_label = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self.by_label]
        self.first = np.searchsorted(ordered, query_labels, side="left")
        self.counts = np.searchsorted(ordered, query_labels, side="right") - self.first

    def of(self, query: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.by_label[self.first[query] : self.first[query] + self.counts[query]]
        return rows


class _RankCounter:
    """Counts, for a group of queries, the scores above and equal to each relevant one, block by block."""

    def __init__(
        self, group: slice, targets: NDArray[np.float64], self_index: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> None:
        self.group, self.targets, self.self_index, self.pool = group, targets, self_index, pool
        self.above = np.zeros(targets.shape, dtype=np.int64)
        self.tied = np.zeros(targets.shape, dtype=np.int64)

    def count(self, rows: slice, columns: slice, scores: NDArray[np.float64]) -> None:
        """Add the scores of the queries `rows` against the gallery `columns`; sorts `scores` in place."""
        itself = self.self_index[rows] - columns.start
        here = np.flatnonzero((itself >= 0) & (itself < scores.shape[1]) & (self.self_index[rows] >= 0))
        scores[here, itself[here]] = -np.inf  # below every score, so it neither outranks nor ties with anything
        list(self.pool.map(lambda part: scores[part].sort(axis=1), _slices(0, len(scores), _SORTED_ROWS)))
        mine = slice(rows.start - self.group.start, rows.stop - self.group.start)
        ordered, targets = torch.from_numpy(scores), torch.from_numpy(self.targets[mine])
        right = torch.searchsorted(ordered, targets, right=True)
        self.above[mine] += scores.shape[1] - right.numpy()
        # Each target meets itself in one block and hardly ever another equal score: the second search is for those.
        tied = _equal_at(ordered, right - 1, targets)
        again = torch.nonzero(_equal_at(ordered, right - 2, targets).any(dim=1)).flatten()
        tied[again] = right[again] - torch.searchsorted(ordered[again], targets[again], right=False)
        self.tied[mine] += tied.numpy()

    def ranks(self) -> Iterator[RelevantRanks]:
        """What was counted, for a bounded number of queries at a time."""
        for part in _slices(0, len(self.targets), _YIELDED_QUERIES):
            real = self.targets[part] < np.inf
            yield RelevantRanks(
                query=np.arange(self.group.start + part.start, self.group.start + part.stop, dtype=np.int64),
                row=np.nonzero(real)[0],
                above=self.above[part][real],
                tied=self.tied[part][real],
            )


def _equal_at(ordered: torch.Tensor, place: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(Q, W) int64, 1 where the score at `place` of a row, if there is such a place, equals the target."""
    equal = (ordered.gather(1, place.clamp(min=0)) == targets) & (place >= 0)
    return equal.to(torch.int64)


def _target_scores(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    relevant: _RelevantRows,
    self_index: NDArray[np.int64],
    distance: Distance,
    group: slice,
    block: int,
) -> NDArray[np.float64]:
    """(Q, W) scores of the relevant images of each query of a group, ascending.

    W is the most relevant images any of them has. Rows with fewer, and the query itself, are filled up with +inf,
    which no score is above or equal to.
    """
    targets = np.full((group.stop - group.start, int(relevant.counts[group].max(initial=0))), np.inf)
    found = np.flatnonzero(relevant.counts[group])  # others have no relevant image, and `first` of another label
    same_label = found[np.argsort(relevant.first[group][found], kind="stable")]
    for members in np.split(same_label, np.flatnonzero(np.diff(relevant.first[group][same_label])) + 1):
        if len(members) == 0:
            break
        rows = relevant.of(group.start + int(members[0]))
        for part in _slices(0, len(members), block):
            some = members[part]
            for columns in _slices(0, len(rows), block):
                scores = _scores(queries[group.start + some], gallery[rows[columns]], distance)
                scores[rows[columns] == self_index[group.start + some][:, None]] = np.inf
                targets[some, columns] = scores
    targets.sort(axis=1)
    return targets


def _scores(queries: NDArray[np.float32], gallery: NDArray[np.float32], distance: Distance) -> NDArray[np.float64]:
    q = queries.astype(np.float64)
    # Of one array with itself NumPy computes one triangle only.
    g = q if _same(queries, gallery) else gallery.astype(np.float64)
    scores: NDArray[np.float64] = q @ g.T
    if distance == "euclidean":
        scores *= 2.0
        scores -= np.einsum("nd,nd->n", g, g)
        scores -= np.einsum("nd,nd->n", q, q)[:, None]
    return scores


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data


def _query_groups(counts: NDArray[np.int64], memory: int) -> Iterator[slice]:
    """Consecutive queries whose counters, as wide as the widest of them, fit into `memory` bytes."""
    start, widest = 0, 1
    for query, count in enumerate(counts.tolist()):
        wider = max(widest, count)
        if query > start and (query + 1 - start) * wider * _BYTES_PER_PAIR > memory:
            yield slice(start, query)
            start, wider = query, max(1, count)
        widest = wider
    if len(counts) > start:
        yield slice(start, len(counts))


def _block_size(dim: int, memory: int) -> int:
    """Side of the score blocks: scores, their mirror image and both operands in float64 fit into `memory` bytes."""
    block = _LARGEST_BLOCK
    while block > _SORTED_ROWS and 16 * block * (block + dim) > memory:
        block //= 2
    return block


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def _row_blocks(matrix: NDArray[np.floating]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(matrix), _CAST_ROWS):
        yield start, matrix[start : start + _CAST_ROWS].astype(np.float64)


def _lengths(block: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return lengths


def _not_finite_rows(block: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.flatnonzero(~np.isfinite(block).all(axis=1))
