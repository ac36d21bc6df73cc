"""Blocks of scores -> exactly where the relevant images of each query stand, in bounded memory, on any device.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` counts just that, block by block of the score matrix, and
never sorts a gallery: the scores of the relevant images come first (targets), and every block adds to the counts above
and at each of them. Counts are integers, so they are the same for every block size, device and number of processes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.counting import count_scores
from timm_gam.core import ALONE, World
from timm_gam.search import Rows, Scorer, in_threads, one_blas_thread, slices

DEFAULT_MEMORY_BUDGET = 768 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings."""

_LARGEST_BLOCK, _SMALLEST_BLOCK = 4096, 64  # rows and columns of a score block
_COUNTED = 2**18  # scores that a thread of the CPU counts at a time, in cache
_YIELDED_PAIRS = {"cpu": 2**16}  # at most: what fits into cache
_BYTES_PER_YIELDED = 256  # of a pair, when metrics are made of it
_JOINED = {"cpu": 128}  # images of small classes whose targets are scored together
_NO_TARGET = float("inf")  # no score is above or equal to it
_PADDED = 512  # queries whose targets are filled up at a time
_BYTES_PER_PAIR = 32  # of a target and what is counted for it


@dataclass(frozen=True)
class RelevantRanks:
    """Where the relevant images of Q queries stand, as P (query, relevant image) pairs.

    Tensors on the device of the scores.

    Attributes:
        query: (Q,) int64, index of each query among all queries.
        row: (P,) int64 in [0, Q), ascending: the query of each pair.
        above: (P,) int64, gallery images that score higher than the pair's relevant image, ascending within a query.
        tied: (P,) int64 >= 1, gallery images with exactly its score, itself included.
        score: (P,) float64, the score of the pair's relevant image; None where only its place is known.
    """

    query: Tensor
    row: Tensor
    above: Tensor
    tied: Tensor
    score: Tensor | None = None


def rank_relevant(
    scorer: Scorer,
    query_labels: NDArray[np.int64],
    gallery_labels: NDArray[np.int64],
    *,
    self_index: NDArray[np.int64] | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> Iterator[RelevantRanks]:
    """Rank the gallery for every query and yield, group by group, where its relevant images stand.

    Relevant: gallery images with the query's label.

    Args:
        scorer: Scores of Q queries against N gallery images.
        query_labels: (Q,) int64.
        gallery_labels: (N,) int64.
        self_index: (Q,) int64, the gallery row that is the query itself, or -1 where it is not in the gallery.
            That row is left out by its identity, whatever its score: duplicates of the query stay.
        memory_budget: Bytes this function may use, blocks included. What a single query needs, about
            32 bytes per relevant image, is always taken.
        on_progress: Called with the number of queries just counted; where every query is counted against a part of the
            gallery, with as many queries as that is worth.
        world: The processes that share the blocks; each calls this alike, with equal arguments, and gets all ranks.

    Yields:
        RelevantRanks of consecutive groups of queries, all queries once.
    """
    if self_index is None:
        self_index = np.full(scorer.queries, -1, dtype=np.int64)
    relevant = _Relevant(query_labels, gallery_labels, self_index, scorer.device)
    groups = _query_groups(relevant.counts, 2 * memory_budget // 3)
    counters = max(((g.stop - g.start) * int(relevant.counts[g].max(initial=0)) for g in groups), default=0)
    yielding = memory_budget // 8
    memory = max(memory_budget - yielding - _BYTES_PER_PAIR * counters, memory_budget // 4)
    rows, columns = _sides(scorer, memory)
    with one_blas_thread():
        for group in groups:
            yield from _rank_group(scorer, relevant, group, rows, columns, yielding, on_progress, world)


def _rank_group(
    scorer: Scorer,
    relevant: _Relevant,
    group: slice,
    rows: int,
    columns: int,
    yielding: int,
    on_progress: Callable[[int], None],
    world: World,
) -> Iterator[RelevantRanks]:
    """`rank_relevant` for the queries of a group, whose counters fit into memory together."""
    counter = (_SortCounter if scorer.device.type == "cpu" else _SearchCounter)(
        group, relevant, _targets(scorer, relevant, group, rows, columns, world)
    )
    progress = _Share((group.stop - group.start) * scorer.gallery, group.stop - group.start, on_progress)
    turn = itertools.count()  # blocks are dealt out in turn
    for queries, images, mirrored in _blocks(group, scorer, rows, columns):
        if next(turn) % world.size == world.rank:
            scores = scorer.block(queries, images)
            counter.count(queries, images, scores)
            if mirrored:
                counter.count(images, queries, scores.T)
        progress.advance((1 + mirrored) * (queries.stop - queries.start) * (images.stop - images.start))
    yield from counter.ranks(world, yielding)


def _sides(scorer: Scorer, memory: int) -> tuple[int, int]:
    """Rows and columns of blocks that fit into memory with what counting them takes; the rest is the scorer's to keep.

    Wide blocks are faster, as all targets of a query are sought in each.
    """
    on_device = 0 if scorer.device.type == "cpu" else 28  # bytes beside each score: its bin, target and mirror image

    def needed(rows: int, columns: int) -> int:
        scratch = on_device * rows * columns + 24 * min(_COUNTED * torch.get_num_threads(), rows * columns)
        return scorer.bytes_per_block(rows, columns) + scratch

    rows = _LARGEST_BLOCK
    while rows > _SMALLEST_BLOCK and needed(rows, rows) > memory:
        rows //= 2
    columns = rows if scorer.symmetric or needed(rows, 2 * rows) > memory else 2 * rows
    scorer.keep(max(0, memory - needed(rows, columns)))
    return rows, columns


def _blocks(group: slice, scorer: Scorer, rows: int, columns: int) -> Iterator[tuple[slice, slice, bool]]:
    """Blocks of the score matrix of a group of queries: rows, columns, and whether its mirror image is one as well.

    Of one set with itself, a block within the group also holds the scores of its mirror image, which is left out.
    """
    queries = slices(group.start, group.stop, rows)
    images = slices(0, scorer.gallery, columns)
    if scorer.symmetric:
        images = [*slices(0, group.start, rows), *queries, *slices(group.stop, scorer.gallery, rows)]
    for there in images:
        within = scorer.symmetric and group.start <= there.start < group.stop
        for here in queries:
            if not within or there.start >= here.start:
                yield here, there, within and there.start > here.start
        queries = queries[::-1]  # what was used last is used first: a scorer may have kept it


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


class _Relevant:
    """The gallery rows that count for each query and those that do not, found by label."""

    def __init__(
        self,
        query_labels: NDArray[np.int64],
        gallery_labels: NDArray[np.int64],
        self_index: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self.by_label = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self.by_label]
        self.first = np.searchsorted(ordered, query_labels, side="left")
        self.counts = np.searchsorted(ordered, query_labels, side="right") - self.first
        self.self_index, self.device = torch.from_numpy(self_index).to(device), device
        # A label as a small number: the place of its first image, -1 where the gallery has none.
        codes = np.where(self.counts > 0, self.first, -1), np.searchsorted(ordered, gallery_labels, side="left")
        self.query_code, self.gallery_code = (torch.from_numpy(each.astype(np.int32)).to(device) for each in codes)

    def left_out(self, queries: slice, images: slice) -> Tensor:
        """(Q, C) true for relevant images, which targets stand for, and for the query itself."""
        left_out = self.query_code[queries, None] == self.gallery_code[None, images]
        itself = self.self_index[queries] - images.start
        here = torch.nonzero((itself >= 0) & (itself < left_out.shape[1]))[:, 0]
        left_out[here, itself[here]] = True
        return left_out


class _Counter(ABC):
    """Counts, for a group of queries, the scores above and equal to each target, block by block.

    Args:
        group: The queries.
        targets: (Q, W) float64, `_targets` of them.
    """

    def __init__(self, group: slice, relevant: _Relevant, targets: Tensor) -> None:
        self.group, self.relevant, self.targets = group, relevant, targets

    @abstractmethod
    def count(self, rows: slice, columns: slice, scores: Tensor) -> None:
        """Add the scores of the queries `rows` against those of the gallery `columns`."""

    @abstractmethod
    def counts(self, world: World) -> Callable[[slice], tuple[Tensor, Tensor]]:
        """Part of the group -> (R, W) gallery images above and equal to each of its targets, of all processes."""

    def ranks(self, world: World, memory: int) -> Iterator[RelevantRanks]:
        """What was counted, for so many pairs at a time as metrics can be made of within `memory` bytes."""
        counts = self.counts(world)
        most = min(memory // _BYTES_PER_YIELDED, _YIELDED_PAIRS.get(self.targets.device.type, 2**62))
        for part in slices(0, len(self.targets), max(1, most // max(1, self.targets.shape[1]))):
            above, tied = counts(part)
            best_first = (self.targets[part] < _NO_TARGET).flip(1)
            yield RelevantRanks(
                query=torch.arange(self.group.start + part.start, self.group.start + part.stop, device=above.device),
                row=torch.nonzero(best_first)[:, 0],
                above=above.flip(1)[best_first].long(),
                tied=tied.flip(1)[best_first].long(),
                score=self.targets[part].flip(1)[best_first],
            )


class _SortCounter(_Counter):
    """For CPUs: every row of a block is sorted, as NumPy does 13 times as fast as torch, and targets sought in it.

    Scores are sorted as float32, in half the time. Rounding keeps the order of scores or makes them equal; a row where
    a score has become equal to a target is counted again in float64.
    """

    def __init__(self, group: slice, relevant: _Relevant, targets: Tensor) -> None:
        super().__init__(group, relevant, targets)
        self.above, self.tied = (np.zeros(targets.shape, dtype=np.int32) for _ in range(2))

    def count(self, rows: slice, columns: slice, scores: Tensor) -> None:
        def count_tile(tile: slice) -> None:
            queries = slice(rows.start + tile.start, rows.start + tile.stop)
            mine = slice(queries.start - self.group.start, queries.stop - self.group.start)
            self._count(scores[tile].numpy(), self.relevant.left_out(queries, columns).numpy(), mine, np.float32)

        in_threads(count_tile, slices(0, len(scores), max(1, _COUNTED // scores.shape[1])))

    def _count(
        self, scores: NDArray[np.float64], left_out: NDArray[np.bool_], mine: Rows, precision: type[np.floating]
    ) -> None:
        values = np.empty(scores.shape, precision)
        values[:] = scores
        np.putmask(values, left_out, -np.inf)
        values.sort(axis=1)
        ordered, targets = torch.from_numpy(values), torch.from_numpy(self.targets.numpy()[mine].astype(precision))
        last = torch.searchsorted(ordered, targets, right=True)
        above = values.shape[1] - last.numpy()
        if precision is np.float64:
            self.tied[mine] += (last - torch.searchsorted(ordered, targets)).numpy()
        else:
            equal = (ordered.gather(1, (last - 1).clamp_(min=0)) == targets).any(dim=1).numpy()
            if equal.any():
                self._count(scores[equal], left_out[equal], np.arange(len(self.targets))[mine][equal], np.float64)
                above[equal] = 0
        self.above[mine] += above

    def counts(self, world: World) -> Callable[[slice], tuple[Tensor, Tensor]]:
        others_above, others_tied = (world.sum(torch.from_numpy(each)) for each in (self.above, self.tied))

        def of(part: slice) -> tuple[Tensor, Tensor]:  # those left out are the targets themselves, all of them here
            targets = self.targets[part]
            last = torch.searchsorted(targets, targets, right=True)
            above = others_above[part] + (targets < _NO_TARGET).sum(dim=1, keepdim=True) - last
            return above, others_tied[part] + last - torch.searchsorted(targets, targets)

        return of


class _SearchCounter(_Counter):
    """For devices with fast atomic additions: every score is sought among the targets and falls into a bin.

    The score of the query itself is counted as any other, kept, and taken off in the end.
    """

    def __init__(self, group: slice, relevant: _Relevant, targets: Tensor) -> None:
        super().__init__(group, relevant, targets)
        queries, width = targets.shape
        self.bins = torch.zeros(queries, width + 1, dtype=torch.int32, device=targets.device)
        self.equal = torch.zeros(queries, width, dtype=torch.int32, device=targets.device)
        self.own = torch.zeros(queries, 1, dtype=torch.float64, device=targets.device)

    def count(self, rows: slice, columns: slice, scores: Tensor) -> None:
        mine = slice(rows.start - self.group.start, rows.stop - self.group.start)
        count_scores(scores.contiguous(), self.targets[mine], self.bins[mine], self.equal[mine])
        itself = self.relevant.self_index[rows, None] - columns.start
        here = (itself >= 0) & (itself < scores.shape[1])
        own = scores.gather(1, itself.clamp(0, scores.shape[1] - 1))
        self.own[mine] = torch.where(here, own, self.own[mine])

    def counts(self, world: World) -> Callable[[slice], tuple[Tensor, Tensor]]:
        bins, equal, own = (world.sum(each) for each in (self.bins, self.equal, self.own))  # own is 0 in all but one
        has_own = self.relevant.self_index[self.group, None] >= 0

        def of(part: slice) -> tuple[Tensor, Tensor]:
            targets, own_score = self.targets[part], torch.where(has_own[part], own[part], -torch.inf)
            above = bins[part].flip(1).cumsum(1, dtype=torch.int32).flip(1)[:, 1:]
            tied = equal[part].gather(1, torch.searchsorted(targets, targets))  # equal targets share the first's bin
            return above - (own_score > targets).int(), tied - (own_score == targets).int()

        return of


def _targets(
    scorer: Scorer, relevant: _Relevant, group: slice, most_rows: int, most_columns: int, world: World
) -> Tensor:
    """(Q, W) targets of each query of a group, the scores of its relevant images, ascending.

    W is the most relevant images any of them has. Rows with fewer, and the query itself, are filled up with
    `_NO_TARGET`, which no score is above or equal to.
    """
    counts, first = relevant.counts[group], relevant.first[group]
    width = int(counts.max(initial=0))
    targets = torch.zeros(len(counts), width, dtype=torch.float64, device=scorer.device)
    place = torch.arange(width, device=scorer.device)
    turn = itertools.count()
    for members, images in _classes(counts, first, _JOINED.get(scorer.device.type, most_columns)):
        for rows in slices(0, len(members), most_rows):
            for columns in slices(images.start, images.stop, most_columns):
                if next(turn) % world.size != world.rank:
                    continue
                some = members[rows]
                scores = scorer.block(group.start + some, relevant.by_label[columns])
                start, count, mine = (
                    torch.from_numpy(each).to(scorer.device) for each in (first[some], counts[some], some)
                )
                found = start[:, None] + place - columns.start
                here = (place < count[:, None]) & (found >= 0) & (found < scores.shape[1])
                found.clamp_(0, scores.shape[1] - 1)
                targets[mine] += torch.where(here, scores.gather(1, found), 0.0)
    world.sum(targets)  # each is 0 in all processes but one
    start, count = (torch.from_numpy(each).to(scorer.device) for each in (first, counts))
    by_label = torch.from_numpy(relevant.by_label).to(scorer.device)
    for part in slices(0, len(targets), _PADDED):
        image = by_label[(start[part, None] + place).clamp_(max=len(by_label) - 1)]
        itself = relevant.self_index[group][part, None]
        targets[part][(place >= count[part, None]) | (image == itself)] = _NO_TARGET
    if scorer.device.type == "cpu":
        targets.numpy().sort(axis=1)
        return targets
    return targets.sort(dim=1).values


def _classes(
    counts: NDArray[np.int64], first: NDArray[np.int64], joined: int
) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """Queries of one class, or of several with up to `joined` images in all, and the places of its images by label."""
    members = np.flatnonzero(counts)  # others have no relevant image, and `first` of another label
    members = members[np.argsort(first[members], kind="stable")]
    starts = np.flatnonzero(np.diff(first[members], prepend=-1))  # of classes
    begin = 0
    for at, after in itertools.pairwise([*starts.tolist(), len(members)] if len(members) else []):
        there = slice(int(first[members[begin]]), int(first[members[at]] + counts[members[at]]))
        following = members[after] if after < len(members) else None
        if following is None or first[following] + counts[following] - there.start > joined:
            yield members[begin:after], there
            begin = after


def _query_groups(counts: NDArray[np.int64], memory: int) -> list[slice]:
    """Consecutive queries whose counters, as wide as the widest of them, fit into `memory` bytes."""
    if len(counts) and len(counts) * int(counts.max()) * _BYTES_PER_PAIR <= memory:
        return [slice(0, len(counts))]
    groups, start, widest = [], 0, 1
    for query, count in enumerate(counts.tolist()):
        wider = max(widest, count)
        if query > start and (query + 1 - start) * wider * _BYTES_PER_PAIR > memory:
            groups.append(slice(start, query))
            start, wider = query, max(1, count)
        widest = wider
    if len(counts) > start:
        groups.append(slice(start, len(counts)))
    return groups
