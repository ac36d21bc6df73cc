"""Blocks of scores -> exactly where the relevant images of each query stand, in bounded memory, on any device.

A metric of a query depends on the ranking only through its relevant images: how many gallery images score
above each, and how many score the same. `rank_relevant` counts just that, block by block of the score matrix, and
never sorts a gallery: the scores of the relevant images come first (targets), and every block adds to the counts above
and at each of them. Counts are integers, so they are the same for every block size, device and number of processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.counting import SearchCounter, SortCounter
from eval.scoring.relevant import NO_TARGET, Relevant
from timm_gam.core import ALONE, World
from timm_gam.search import Scorer, one_blas_thread, slices

DEFAULT_MEMORY_BUDGET = 768 * 2**20
"""Bytes that `rank_relevant` may use beyond the embeddings."""

_LARGEST_BLOCK = 4096  # rows and columns of a score block; the smallest has 64
AHEAD = {"cpu": 3}  # groups that may be yielded before an earlier one is done with; none elsewhere
_YIELDED_PAIRS = {"cpu": 2**16}  # at most: what fits into cache
_BYTES_PER_YIELDED = 256  # of a pair, when metrics are made of it


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

    Raises:
        DataError: a query's own gallery row has another label than the query.

    >>> from timm_gam.search import ExactScorer, fixed_point
    >>> points, labels = fixed_point(np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]), np.array([0, 0, 1, 1])
    >>> [ranks] = rank_relevant(ExactScorer(points, points), labels, labels, self_index=np.arange(4))
    >>> ranks.above.tolist(), ranks.tied.tolist()
    ([0, 0, 0, 0], [1, 1, 1, 1])
    """
    relevant = Relevant(query_labels, gallery_labels, self_index)
    kind = SortCounter if scorer.device.type == "cpu" else SearchCounter
    groups = _query_groups(relevant.counts, 2 * memory_budget // 3 // kind.bytes_per_pair)
    pairs = max(((g.stop - g.start) * int(relevant.counts[g].max()) for g in groups), default=0)
    held = 1 + AHEAD.get(scorer.device.type, 0)
    yielded = min(memory_budget // 8 // held, _BYTES_PER_YIELDED * _YIELDED_PAIRS.get(scorer.device.type, 2**62))
    memory = max(memory_budget - held * yielded - kind.bytes_per_pair * pairs, memory_budget // 4)
    rows, columns = _sides(scorer, kind, memory)
    with one_blas_thread():
        for group in groups:
            counter = kind(group, relevant, *relevant.targets(scorer, group, rows, columns, world))
            done = 0
            for number, (queries, images, mirrored) in enumerate(_blocks(group, scorer, rows, columns)):
                if number % world.size == world.rank:  # blocks are dealt out in turn
                    scores = scorer.block(queries, images)
                    counter.count(queries, images, scores)
                    if mirrored:
                        counter.count(images, queries, scores.T)
                before = done
                done += (1 + mirrored) * (queries.stop - queries.start) * (images.stop - images.start)
                on_progress(done // scorer.gallery - before // scorer.gallery)
            world.sum(counter.above)
            world.sum(counter.tied)
            for part in slices(
                0, group.stop - group.start, max(1, yielded // _BYTES_PER_YIELDED // counter.targets.shape[1])
            ):
                yield _ranks(counter, part)


def _ranks(counter: SortCounter, part: slice) -> RelevantRanks:
    """What was counted for a part of a group of queries."""
    above, tied = counter.counts(part)
    targets = counter.targets[part].flip(1)  # best first
    row, column = torch.nonzero(targets < NO_TARGET, as_tuple=True)
    return RelevantRanks(
        query=torch.arange(counter.group.start + part.start, counter.group.start + part.stop, device=above.device),
        row=row.contiguous(),
        above=above.flip(1)[row, column].long(),
        tied=tied.flip(1)[row, column].long(),
        score=targets[row, column],
    )


def _sides(scorer: Scorer, kind: type[SortCounter], memory: int) -> tuple[int, int]:
    """Rows and columns of blocks that fit into memory with what counting them takes; the rest is the scorer's to keep.

    Wide blocks are faster, as all targets of a query are sought in each.
    """

    def needed(rows: int, columns: int) -> int:
        return scorer.bytes_per_block(rows, columns) + kind.bytes_per_block(rows * columns)

    heights = [_LARGEST_BLOCK >> halvings for halvings in range(7)]
    sides = [(rows, times * rows) for rows in heights for times in ((1,) if scorer.symmetric else (2, 1))]
    rows, columns = next((each for each in sides if needed(*each) <= memory), sides[-1])
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


def _query_groups(counts: NDArray[np.int64], most_pairs: int) -> list[slice]:
    """Consecutive queries that have at most so many pairs, were each as many as the widest of them has."""
    ends = [0]
    while ends[-1] < len(counts):
        widest = np.maximum.accumulate(np.maximum(counts[ends[-1] :][: max(1, most_pairs)], 1))
        fit = int(np.count_nonzero(widest * np.arange(1, len(widest) + 1) <= most_pairs))
        ends.append(ends[-1] + max(1, fit))
    return [slice(*each) for each in itertools.pairwise(ends)]
