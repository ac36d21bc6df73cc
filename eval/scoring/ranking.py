"""Embeddings -> rankings: exactly where the relevant images of each query stand, in bounded memory.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` counts just that, block by block of the score matrix, and
never sorts a gallery. Scores are exact (`timm_gam.search`), so the counts are the same for every block size,
thread count, machine and order of files.

Counting: a row of scores is sorted together with its targets, the scores of the relevant images, all rounded to float32
without its last bit, which marks the targets. Rounding keeps the order of scores or makes them equal; where a score
has become equal to a target, that row is counted again in the exact scores.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import ALONE, World
from timm_gam.search import FixedPoint, Kernel, fastest_kernel, single_threaded_workers, slices

__all__ = ["DEFAULT_MEMORY_BUDGET", "RelevantRanks", "rank_relevant"]

DEFAULT_MEMORY_BUDGET = 768 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings it is given."""

_LARGEST_BLOCK = 2048  # rows and columns of a score block
_SMALLEST_BLOCK = 64
_WIDEST = 2  # times its rows, where queries and gallery are two sets
_TILE_ROWS = 256  # rows of a block that one thread works on at a time
_COUNTED = 2**18  # scores and targets that it counts at a time, in cache
_YIELDED_QUERIES = 512
_NO_TARGET = 2.0**60  # above all scores
_BYTES_PER_PAIR = 16  # of the counters: a score, the number above it and the number tied with it


@dataclass(frozen=True)
class RelevantRanks:
    """Where the relevant images of Q queries stand, as P (query, relevant image) pairs.

    Attributes:
        query: (Q,) int64, index of each query among all queries.
        row: (P,) int64 in [0, Q), ascending: the query of each pair.
        above: (P,) int64, gallery images that score higher than the pair's relevant image, ascending within a query.
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
    kernel: Kernel | None = None,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> Iterator[RelevantRanks]:
    """Rank the gallery for every query and yield, group by group, where its relevant images stand.

    Score of query q and gallery image g: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance, in units
    of the integers of `timm_gam.search.integer_vectors`.
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
        kernel: How dot products are computed; default the fastest here. All give the same ranks.
        on_progress: Called with the number of queries just counted; where every query is counted against a part of the
            gallery, with as many queries as that is worth.
        world: The processes that share the blocks; each calls this alike, with equal arguments, and gets all ranks.

    Yields:
        RelevantRanks of consecutive groups of queries, all queries once.
    """
    if self_index is None:
        self_index = np.full(len(queries), -1, dtype=np.int64)
    relevant = _RelevantRows(query_labels, gallery_labels)
    kernel = kernel or fastest_kernel(np.maximum(queries.largest, gallery.largest))
    sizes = _Sizes.within(memory_budget // 3, kernel, queries.dim, widest=1 if queries is gallery else _WIDEST)
    with single_threaded_workers() as pool:
        scores = _Scores(queries, gallery, kernel, sizes, pool)
        for group in _query_groups(relevant.counts, 2 * memory_budget // 3):
            yield from _rank_group(scores, relevant, self_index, group, sizes, on_progress, world)


def _rank_group(
    scores: _Scores,
    relevant: _RelevantRows,
    self_index: NDArray[np.int64],
    group: slice,
    sizes: _Sizes,
    on_progress: Callable[[int], None],
    world: World,
) -> Iterator[RelevantRanks]:
    """`rank_relevant` for the queries of a group, whose counters fit into memory together."""
    targets = _targets(scores, relevant, self_index, group, sizes.rows, world)
    counter = _RankCounter(group, targets, relevant, self_index, scores.pool)
    progress = _Share((group.stop - group.start) * len(scores.gallery), group.stop - group.start, on_progress)
    turn = itertools.count()  # blocks are dealt out in turn
    for rows, columns, mirrored in _blocks(group, len(scores.gallery), sizes, symmetric=scores.symmetric):
        if next(turn) % world.size == world.rank:
            matrix = scores.block(rows, columns)
            counter.count(rows, columns, matrix)
            if mirrored:
                counter.count(columns, rows, matrix.T)
        progress.advance((1 + mirrored) * (rows.stop - rows.start) * (columns.stop - columns.start))
    counter.add_up(world)
    yield from counter.ranks()


@dataclass(frozen=True)
class _Sizes:
    """Sides of the score blocks, and what is left of the memory for operands that will be needed again."""

    rows: int
    columns: int
    kept_operands: int  # bytes
    rows_at_once: int  # blocks of queries that are counted against a block of the gallery before the next is read

    @classmethod
    def within(cls, memory: int, kernel: Kernel, dim: int, widest: int) -> _Sizes:
        """Those that fit into `memory` bytes, of blocks up to `widest` times as wide as high.

        Targets are sorted with every block, so wide blocks are faster.
        """
        operand = kernel.bytes_per_vector(dim)
        threads = torch.get_num_threads()

        def needed(rows: int, columns: int) -> int:
            scratch = max(kernel.scratch_bytes(columns), _TILE_ROWS * 24 * max(columns, dim))
            return 8 * rows * columns + operand * (rows + columns) + threads * scratch

        rows, widen = _LARGEST_BLOCK, widest
        while rows > _SMALLEST_BLOCK and needed(rows, rows) > memory:
            rows //= 2
        while widen > 1 and needed(rows, widen * rows) > memory:
            widen //= 2
        left = max(0, memory - needed(rows, widen * rows) + operand * (1 + widen) * rows)
        # Two blocks of the gallery: when the next comes, the last is to be dropped but is not the one used longest ago.
        return cls(rows, widen * rows, left, max(1, left // (operand * rows) - 2 * widen))


def _blocks(group: slice, gallery: int, sizes: _Sizes, *, symmetric: bool) -> Iterator[tuple[slice, slice, bool]]:
    """Blocks of the score matrix of a group of queries: rows, columns, and whether its mirror image is one as well.

    Of one set with itself, a block within the group also holds the scores of its mirror image, which is left out.
    """
    queries = slices(group.start, group.stop, sizes.rows)
    if symmetric:
        before, after = slices(0, group.start, sizes.rows), slices(group.stop, gallery, sizes.rows)
        images = [*before, *queries, *after]
    else:
        images = slices(0, gallery, sizes.columns)
    for first in range(0, len(queries), sizes.rows_at_once):
        for columns in images:
            within = symmetric and group.start <= columns.start < group.stop
            for rows in queries[first : first + sizes.rows_at_once]:
                if not within or columns.start >= rows.start:
                    yield rows, columns, within and columns.start > rows.start


class _Share:
    """Tells of work done on a part of something as whole numbers of a whole: 3 of 4 blocks are 75 of 100 queries."""

    def __init__(self, parts: int, whole: int, tell: Callable[[int], None]) -> None:
        self.parts, self.whole, self.tell = parts, whole, tell
        self.done = self.told = 0

    def advance(self, parts: int) -> None:
        self.done += parts
        reached = self.whole * self.done // self.parts
        self.tell(reached - self.told)
        self.told = reached


class _RelevantRows:
    """The gallery rows relevant to each query, found by label."""

    def __init__(self, query_labels: NDArray[np.int64], gallery_labels: NDArray[np.int64]) -> None:
        self.by_label = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self.by_label]
        self.first = np.searchsorted(ordered, query_labels, side="left")
        self.counts = np.searchsorted(ordered, query_labels, side="right") - self.first
        # A label as a small number: the place of its first image, -1 where the gallery has none.
        self.query_code = np.where(self.counts > 0, self.first, -1).astype(np.int32)
        self.gallery_code = np.searchsorted(ordered, gallery_labels, side="left").astype(np.int32)

    def of(self, query: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.by_label[self.first[query] : self.first[query] + self.counts[query]]
        return rows


@dataclass(frozen=True)
class _Operand:
    """Integer vectors of a block as the kernel takes them, with their squared lengths where the distance needs them."""

    vectors: NDArray[Any]
    squares: NDArray[np.float64] | None

    @property
    def nbytes(self) -> int:
        return len(self.vectors) * self.vectors.strides[0]


class _Scores:
    """Exact scores of queries against gallery images, in units of the integers of `FixedPoint`.

    Operands of consecutive vectors are prepared once, as far as they fit into `kept` bytes.
    """

    def __init__(
        self, queries: FixedPoint, gallery: FixedPoint, kernel: Kernel, sizes: _Sizes, pool: ThreadPoolExecutor
    ) -> None:
        self.queries, self.gallery, self.kernel, self.pool = queries, gallery, kernel, pool
        self.symmetric = queries is gallery
        self.kept, self.operands = sizes.kept_operands, OrderedDict[tuple[bool, int, int], _Operand]()
        # Rows a multiple of 4096 bytes apart would share cache lines when they are read by columns.
        self.room = np.empty((min(sizes.rows, len(queries)), min(sizes.columns, len(gallery)) + 8))

    def block(self, rows: slice, columns: slice) -> NDArray[np.float64]:
        """(R, C) scores of consecutive queries against consecutive gallery images, valid until the next block."""
        left = self._kept_operand(self.queries, rows)
        same = self.symmetric and rows == columns
        right = left if same else self._kept_operand(self.gallery, columns)
        return self._multiply(left, right, self.room[: len(left.vectors), : len(right.vectors)])

    def exact(self, queries: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """(Q, C) scores of any queries against any gallery images."""
        left = self._operand(self.queries, queries)
        same = self.symmetric and np.array_equal(queries, images)
        right = left if same else self._operand(self.gallery, images)
        return self._multiply(left, right, np.empty((len(queries), len(images))))

    def _multiply(self, left: _Operand, right: _Operand, out: NDArray[np.float64]) -> NDArray[np.float64]:
        self.kernel.multiply(left.vectors, right.vectors, out, self.pool.map)
        if left.squares is not None and right.squares is not None:
            squares = left.squares, right.squares

            def subtract(tile: slice) -> None:
                out[tile] *= 2.0
                out[tile] -= squares[1]
                out[tile] -= squares[0][tile, None]

            list(self.pool.map(subtract, slices(0, len(out), _TILE_ROWS)))
        return out

    def _kept_operand(self, points: FixedPoint, rows: slice) -> _Operand:
        key = (points is self.gallery, rows.start, rows.stop)
        if key not in self.operands:
            operand = self._operand(points, rows)
            kept = sum(other.nbytes for other in self.operands.values())
            while self.operands and kept + operand.nbytes > self.kept:
                kept -= self.operands.popitem(last=False)[1].nbytes  # the one used longest ago
            self.operands[key] = operand
        self.operands.move_to_end(key)
        return self.operands[key]

    def _operand(self, points: FixedPoint, rows: slice | NDArray[np.int64]) -> _Operand:
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        vectors = self.kernel.operand(count, points.dim)
        squares = np.empty(count) if points.distance == "euclidean" else None

        def read(tile: slice) -> None:
            some = rows[tile] if not isinstance(rows, slice) else slice(rows.start + tile.start, rows.start + tile.stop)
            integers = points.integers(some)
            self.kernel.fill(vectors[tile], integers)
            if squares is not None:
                squares[tile] = np.einsum("nd,nd->n", integers, integers)

        list(self.pool.map(read, slices(0, count, _TILE_ROWS)))
        return _Operand(vectors, squares)


class _RankCounter:
    """Counts, for a group of queries, the scores above and equal to each target, block by block.

    Args:
        group: The queries.
        targets: (Q, W) float64, `_targets` of them.
    """

    def __init__(
        self,
        group: slice,
        targets: NDArray[np.float64],
        relevant: _RelevantRows,
        self_index: NDArray[np.int64],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.group, self.targets, self.relevant, self.self_index, self.pool = group, targets, relevant, self_index, pool
        self.above = np.zeros(targets.shape, dtype=np.int32)
        self.tied = np.zeros(targets.shape, dtype=np.int32)

    def count(self, rows: slice, columns: slice, scores: NDArray[np.float64]) -> None:
        """Add the scores of the queries `rows` against those of the gallery `columns` that are not relevant.

        The relevant ones among each other are counted in `ranks`, where all their scores are at hand.
        """

        def count_tile(tile: slice) -> None:
            queries = slice(rows.start + tile.start, rows.start + tile.stop)
            mine = slice(queries.start - self.group.start, queries.stop - self.group.start)
            targets, left_out = self.targets[mine], self._left_out(queries, columns)
            width = scores.shape[1]
            rounded = np.empty((len(targets), width + targets.shape[1]), dtype=np.float32)
            rounded[:, :width] = scores[tile]
            rounded[:, :width] += 0.0  # of -0.0, which has bits of its own, makes 0.0
            np.copyto(rounded[:, :width], -np.inf, where=left_out)
            rounded[:, width:] = targets
            bits = rounded.view(np.int32)
            bits &= ~1
            bits[:, width:] |= 1
            rounded.sort(axis=1)
            place = np.flatnonzero((bits & 1).astype(np.bool_)).reshape(targets.shape)
            before = rounded.shape[1] * np.arange(len(targets))[:, None] + np.arange(targets.shape[1])
            above = width - (place - before)  # less what stands in earlier rows, and the lower targets of its own
            beside = (bits.take(place + step, mode="wrap") ^ bits.take(place) == 1 for step in (-1, 1))
            again = np.flatnonzero(np.logical_or(*beside).any(axis=1))  # a score has become equal to a target
            if len(again):
                exact, sought = scores[tile][again], torch.from_numpy(targets[again])
                exact[left_out[again]] = -np.inf
                exact.sort(axis=1)
                last = torch.searchsorted(torch.from_numpy(exact), sought, right=True)
                above[again] = width - last.numpy()
                self.tied[mine.start + again] += (last - torch.searchsorted(torch.from_numpy(exact), sought)).numpy()
            self.above[mine] += above

        rows_in_cache = max(1, _COUNTED // (scores.shape[1] + self.targets.shape[1]))
        list(self.pool.map(count_tile, slices(0, len(scores), rows_in_cache)))

    def _left_out(self, queries: slice, columns: slice) -> NDArray[np.bool_]:
        """(Q, C) true for relevant images, and for the query itself."""
        codes = self.relevant.query_code[queries], self.relevant.gallery_code[columns]
        left_out: NDArray[np.bool_] = codes[0][:, None] == codes[1]
        itself = self.self_index[queries] - columns.start
        here = np.flatnonzero((itself >= 0) & (itself < left_out.shape[1]))
        left_out[here, itself[here]] = True
        return left_out

    def add_up(self, world: World) -> None:
        """Add what the other processes counted."""
        world.sum(torch.from_numpy(self.above))
        world.sum(torch.from_numpy(self.tied))

    def ranks(self) -> Iterator[RelevantRanks]:
        """What was counted, for a bounded number of queries at a time."""
        for part in slices(0, len(self.targets), _YIELDED_QUERIES):
            targets = torch.from_numpy(self.targets[part])
            real = self.targets[part] < _NO_TARGET
            last = torch.searchsorted(targets, targets, right=True).numpy()
            tied = last - torch.searchsorted(targets, targets).numpy()
            above = self.above[part] + real.sum(axis=1, keepdims=True) - last
            tied += self.tied[part]
            best_first = real[:, ::-1]
            yield RelevantRanks(
                query=np.arange(self.group.start + part.start, self.group.start + part.stop, dtype=np.int64),
                row=np.nonzero(best_first)[0],
                above=above[:, ::-1][best_first],
                tied=tied[:, ::-1][best_first],
            )


def _targets(
    scores: _Scores,
    relevant: _RelevantRows,
    self_index: NDArray[np.int64],
    group: slice,
    block: int,
    world: World,
) -> NDArray[np.float64]:
    """(Q, W) targets of each query of a group, the scores of its relevant images, ascending.

    W is the most relevant images any of them has. Rows with fewer, and the query itself, are filled up with
    `_NO_TARGET`, which no score is above or equal to.
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
        for part in slices(0, len(members), block):
            if next(turn) % world.size != world.rank:
                continue
            some = members[part]
            for columns in slices(0, len(rows), block):
                found_targets = scores.exact(group.start + some, rows[columns])
                found_targets[rows[columns] == self_index[group.start + some][:, None]] = _NO_TARGET
                targets[some, columns] = found_targets
    world.sum(torch.from_numpy(targets))  # each is 0 in all processes but one
    targets[np.arange(targets.shape[1]) >= counts[:, None]] = _NO_TARGET
    targets.sort(axis=1)
    return targets


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
