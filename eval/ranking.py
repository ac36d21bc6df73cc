"""Embeddings -> rankings: exactly where the relevant images of each query stand, in bounded memory.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` counts just that, block by block of the score matrix, and
never sorts a gallery. Scores are exact (`eval.integer_vectors`), so the counts are the same for every block size,
thread count, machine and order of files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eval.distributed import ALONE, World
from eval.exact_products import Multiply, fastest_multiply
from eval.integer_vectors import FixedPoint

__all__ = ["DEFAULT_MEMORY_BUDGET", "RelevantRanks", "rank_relevant"]

DEFAULT_MEMORY_BUDGET = 512 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings it is given."""

_LARGEST_BLOCK = 2048  # rows and columns of a score block
_SMALLEST_BLOCK = 64
_WIDEST = 4  # times its rows, where queries and gallery are two sets
_TILE_ROWS = 256  # rows of a block that one thread works on at a time
_YIELDED_QUERIES = 1024
_BYTES_PER_PAIR = 16  # of the counters: a score, the number above it and the number tied with it


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


def rank_relevant(
    queries: FixedPoint,
    gallery: FixedPoint,
    query_labels: NDArray[np.int64],
    gallery_labels: NDArray[np.int64],
    *,
    self_index: NDArray[np.int64] | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    multiply: Multiply | None = None,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> Iterator[RelevantRanks]:
    """Rank the gallery for every query and yield, group by group, where its relevant images stand.

    Score of query q and gallery image g: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance, in units
    of the integers of `eval.integer_vectors`.
    Relevant: gallery images with the query's label. Where queries and gallery are one object, its scores are
    symmetric and each is computed once.

    Args:
        queries: Q vectors.
        gallery: N vectors, selected from the same `fixed_point` (one scale for both).
        query_labels: (Q,) int64.
        gallery_labels: (N,) int64.
        self_index: (Q,) int64, the gallery row that is the query itself, or -1 where it is not in the gallery.
            That row is left out by its identity, whatever its score: duplicates of the query stay.
        memory_budget: Bytes this function may use beyond its arguments. What a single query needs, about
            32 bytes per relevant image, is always taken.
        multiply: How dot products are computed; default the faster library here. All give the same ranks.
        on_progress: Called with the number of queries whose scores were just counted.
        world: The processes that share the blocks; each calls this alike, with equal arguments, and gets all ranks.

    Yields:
        RelevantRanks of consecutive groups of queries, all queries once.
    """
    if self_index is None:
        self_index = np.full(len(queries), -1, dtype=np.int64)
    relevant = _RelevantRows(query_labels, gallery_labels)
    block = _block_size(queries.dim, memory_budget // 2)
    symmetric = queries is gallery
    with _single_threaded_workers() as pool:
        scores = _Scores(queries, gallery, multiply or fastest_multiply(), pool)
        for group in _query_groups(relevant.counts, memory_budget // 2):
            targets = _target_scores(scores, relevant, self_index, group, block, world)
            counter = _RankCounter(group, targets, self_index, pool)
            turn = itertools.count()  # blocks are dealt out in turn
            for rows in _slices(group.start, group.stop, block):
                # Of one set with itself, a block within the group also holds the scores of its mirror image.
                mirrored = _slices(rows.stop, group.stop, block) if symmetric else []
                if symmetric:
                    others = [rows, *_slices(0, group.start, block), *_slices(group.stop, len(gallery), block)]
                else:
                    others = _slices(0, len(gallery), _width(block, queries.dim, memory_budget // 2))
                mine = [columns for columns in mirrored + others if next(turn) % world.size == world.rank]
                left = scores.operand(queries, rows if mine else slice(0, 0))
                for columns in mine:
                    right = left if symmetric and columns == rows else scores.operand(gallery, columns)
                    matrix = scores.of(left, right)
                    counter.count(rows, columns, matrix)
                    if columns in mirrored:
                        counter.count(columns, rows, matrix.T)
                on_progress(rows.stop - rows.start)
            counter.add_up(world)
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


@dataclass(frozen=True)
class _Operand:
    """Integer vectors of a block, with their squared lengths where the distance needs them."""

    vectors: NDArray[np.float64]
    squares: NDArray[np.float64] | None


class _Scores:
    """Exact scores of queries against gallery images, in units of the integers of `FixedPoint`."""

    def __init__(self, queries: FixedPoint, gallery: FixedPoint, multiply: Multiply, pool: ThreadPoolExecutor) -> None:
        self.queries, self.gallery, self.multiply, self.pool = queries, gallery, multiply, pool

    def operand(self, points: FixedPoint, rows: slice | NDArray[np.int64]) -> _Operand:
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        vectors = np.empty((count, points.dim))

        def read(tile: slice) -> None:
            some = rows[tile] if not isinstance(rows, slice) else slice(rows.start + tile.start, rows.start + tile.stop)
            vectors[tile] = points.integers(some)

        list(self.pool.map(read, _slices(0, count, _TILE_ROWS)))
        return _Operand(vectors, np.einsum("nd,nd->n", vectors, vectors) if points.distance == "euclidean" else None)

    def of(self, left: _Operand, right: _Operand) -> NDArray[np.float64]:
        """(R, C) float64 scores."""
        scores = self.multiply(left.vectors, right.vectors)
        if left.squares is not None and right.squares is not None:
            scores *= 2.0
            scores -= right.squares
            scores -= left.squares[:, None]
        return scores


class _RankCounter:
    """Counts, for a group of queries, the scores above and equal to each relevant one, block by block."""

    def __init__(
        self, group: slice, targets: NDArray[np.float64], self_index: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> None:
        self.group, self.targets, self.self_index, self.pool = group, targets, self_index, pool
        self.above = np.zeros(targets.shape, dtype=np.int32)
        self.tied = np.zeros(targets.shape, dtype=np.int32)

    def count(self, rows: slice, columns: slice, scores: NDArray[np.float64]) -> None:
        """Add the scores of the queries `rows` against the gallery `columns`."""

        def count_tile(tile: slice) -> None:
            queries = slice(rows.start + tile.start, rows.start + tile.stop)
            self._count(queries, columns, np.array(scores[tile], order="C"))

        list(self.pool.map(count_tile, _slices(0, len(scores), _TILE_ROWS)))

    def _count(self, rows: slice, columns: slice, scores: NDArray[np.float64]) -> None:
        itself = self.self_index[rows] - columns.start
        here = np.flatnonzero((self.self_index[rows] >= columns.start) & (itself < scores.shape[1]))
        scores[here, itself[here]] = -np.inf  # below every score, so it neither outranks nor ties with anything
        scores.sort(axis=1)
        mine = slice(rows.start - self.group.start, rows.stop - self.group.start)
        ordered, targets = torch.from_numpy(scores), torch.from_numpy(self.targets[mine])
        right = torch.searchsorted(ordered, targets, right=True)
        self.above[mine] += (scores.shape[1] - right).numpy()
        # Each target meets itself in one block and hardly ever another equal score: the second search is for those.
        tied = _equal_at(ordered, right - 1, targets)
        again = torch.nonzero(_equal_at(ordered, right - 2, targets).any(dim=1)).flatten()
        tied[again] = right[again] - torch.searchsorted(ordered[again], targets[again], right=False)
        self.tied[mine] += tied.numpy()

    def add_up(self, world: World) -> None:
        """Add what the other processes counted."""
        world.sum(torch.from_numpy(self.above))
        world.sum(torch.from_numpy(self.tied))

    def ranks(self) -> Iterator[RelevantRanks]:
        """What was counted, for a bounded number of queries at a time."""
        for part in _slices(0, len(self.targets), _YIELDED_QUERIES):
            real = self.targets[part] < np.inf
            yield RelevantRanks(
                query=np.arange(self.group.start + part.start, self.group.start + part.stop, dtype=np.int64),
                row=np.nonzero(real)[0],
                above=self.above[part][real].astype(np.int64),
                tied=self.tied[part][real].astype(np.int64),
            )


def _equal_at(ordered: torch.Tensor, place: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(Q, W) int64, 1 where the score at `place` of a row, if there is such a place, equals the target."""
    equal = (ordered.gather(1, place.clamp(min=0)) == targets) & (place >= 0)
    return equal.to(torch.int64)


def _target_scores(
    scores: _Scores,
    relevant: _RelevantRows,
    self_index: NDArray[np.int64],
    group: slice,
    block: int,
    world: World,
) -> NDArray[np.float64]:
    """(Q, W) scores of the relevant images of each query of a group, ascending.

    W is the most relevant images any of them has. Rows with fewer, and the query itself, are filled up with +inf,
    which no score is above or equal to.
    """
    counts = relevant.counts[group]
    targets = np.zeros((len(counts), int(counts.max(initial=0))))
    found = np.flatnonzero(counts)  # others have no relevant image, and `first` of another label
    same_label = found[np.argsort(relevant.first[group][found], kind="stable")]
    turn = itertools.count()
    for members in np.split(same_label, np.flatnonzero(np.diff(relevant.first[group][same_label])) + 1):
        if len(members) == 0:
            break
        rows = relevant.of(group.start + int(members[0]))
        for part in _slices(0, len(members), block):
            if next(turn) % world.size != world.rank:
                continue
            some = members[part]
            left = scores.operand(scores.queries, group.start + some)
            for columns in _slices(0, len(rows), block):
                found_scores = scores.of(left, scores.operand(scores.gallery, rows[columns]))
                found_scores[rows[columns] == self_index[group.start + some][:, None]] = np.inf
                targets[some, columns] = found_scores
    world.sum(torch.from_numpy(targets))  # each is 0 in all processes but one
    targets[np.arange(targets.shape[1]) >= counts[:, None]] = np.inf
    targets.sort(axis=1)
    return targets


@contextmanager
def _single_threaded_workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch uses, each working on its own tile alone: no barriers, and tiles stay in cache."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(threads)  # for threads that are yet to come


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
    """Side of the score blocks: the scores and both operands while they are prepared fit into `memory` bytes."""
    block = _LARGEST_BLOCK
    while block > _SMALLEST_BLOCK and 8 * block * (block + 4 * dim) > memory:
        block //= 2
    return block


def _width(block: int, dim: int, memory: int) -> int:
    """Columns of a score block of `block` rows: each relevant image is searched for once per block, so it is wide."""
    width = _WIDEST * block
    while width > block and 8 * (block * width + (block + 2 * width) * dim) > memory:
        width //= 2
    return width


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
