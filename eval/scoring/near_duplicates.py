"""Every metric again without near-duplicates of the query, which make retrieval look easier than it is.

A near-duplicate of a query is left out of that query's gallery: it is neither right nor wrong. Which images these are
is found and applied block by block from their signatures, so that no list of pairs is ever held: a set of a hundred
thousand copies of one picture has five thousand million.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.metrics import query_metrics
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET, RelevantRanks, rank_relevant
from timm_gam.core import ALONE, World
from timm_gam.images import NEAR, likeness
from timm_gam.search import Rows, Scorer, slices

_LOWEST = -1e30
"""Below every score, and finite as float32 too."""

_TILE = 4096  # queries and gallery images compared at once
_EXAMPLES = 24


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates of Q queries in their gallery of G images.

    Attributes:
        query: (Q, 256) int8 signatures.
        gallery: (G, 256) int8 signatures.
        self_index: (Q,) int64 gallery row that is the query itself, -1 for none.
        counts: (Q,) int64, how many each query has, itself not counted.
        crossing: (Q,) bool, whether one of them lies in another split than the query; None without splits.
        examples: (query, gallery image, likeness, in another split) of those most alike, across splits first: at most
            24 pairs.
    """

    query: NDArray[np.int8]
    gallery: NDArray[np.int8]
    self_index: NDArray[np.int64]
    counts: NDArray[np.int64]
    crossing: NDArray[np.bool_] | None
    examples: list[tuple[int, int, float, bool]]


def find_near_duplicates(
    query: NDArray[np.int8],
    gallery: NDArray[np.int8],
    self_index: NDArray[np.int64],
    splits: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> NearDuplicates:
    """Compare the signatures of all queries with those of the gallery.

    Args:
        query: (Q, 256) int8.
        gallery: (G, 256) int8.
        self_index: (Q,) gallery row that is the query itself, -1 for none.
        splits: (Q,) and (G,) int64, the split of each as a number.
        device: Where to compare.
    """
    counts = np.zeros(len(query), dtype=np.int64)
    crossing = None if splits is None else np.zeros(len(query), dtype=np.bool_)
    kept: list[tuple[bool, float, int, int]] = []
    for rows in slices(0, len(query), _TILE):
        for columns in slices(0, len(gallery), _TILE):
            alike = likeness(query[rows], gallery[columns], device)
            near = torch.nonzero(alike >= NEAR)
            values = alike[near[:, 0], near[:, 1]].cpu().numpy()
            left, right = (near.cpu().numpy() + np.array([rows.start, columns.start])).T
            others = self_index[left] != right
            left, right, values = left[others], right[others], values[others]
            counts[rows] += np.bincount(left - rows.start, minlength=rows.stop - rows.start)
            apart = np.zeros(len(left), dtype=np.bool_)
            if splits is not None and crossing is not None:
                apart = splits[0][left] != splits[1][right]
                crossing[left[apart]] = True
            first = np.lexsort((right, left, -values, ~apart))[: 2 * _EXAMPLES]
            kept += zip(*(each[first].tolist() for each in (apart, values, left, right)), strict=True)
            kept = heapq.nsmallest(2 * _EXAMPLES, kept, key=lambda pair: (not pair[0], -pair[1], *pair[2:]))
    examples = [(left, right, value, apart) for apart, value, left, right in kept]
    return NearDuplicates(query, gallery, self_index, counts, crossing, examples)


class WithoutNear(Scorer):
    """The scores of another scorer, with near-duplicates of a query below everything else.

    Args:
        scorer: Gives the scores.
        query: (Q, 256) int8 signatures of its queries.
        gallery: (G, 256) int8 signatures of its gallery.
    """

    def __init__(self, scorer: Scorer, query: NDArray[np.int8], gallery: NDArray[np.int8]) -> None:
        super().__init__(scorer.queries, scorer.gallery, device=scorer.device)
        self.scorer, self.left, self.right = scorer, query, gallery
        self.products = scorer.products

    def block(self, rows: Rows, columns: Rows) -> Tensor:
        scores = self.scorer.block(rows, columns)
        return scores.masked_fill_(likeness(self.left[rows], self.right[columns], self.device) >= NEAR, _LOWEST)

    def bytes_per_block(self, rows: int, columns: int) -> int:
        return self.scorer.bytes_per_block(rows, columns) + 5 * rows * columns + 1280 * (rows + columns)

    def keep(self, memory: int) -> None:
        self.scorer.keep(memory)


def score_without_near(
    scorer: Scorer,
    near: NearDuplicates,
    rows: NDArray[np.int64],
    query_labels: NDArray[np.int64],
    gallery_labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    world: World = ALONE,
) -> dict[str, NDArray[np.float64]]:
    """Metric name -> (R,) of some queries without their near-duplicates, NaN where nothing relevant is left.

    Args:
        scorer: Of these queries against the gallery.
        near: Near-duplicates of all Q queries.
        rows: (R,) which of them these are.
        query_labels: (Q,) class of every query; the rest is as `rank_relevant` takes it.
    """
    own = near.self_index[rows]
    left = torch.from_numpy(scorer.gallery - (own >= 0) - near.counts[rows])
    ranks = rank_relevant(
        WithoutNear(scorer, near.query[rows], near.gallery),
        query_labels[rows],
        gallery_labels,
        self_index=own,
        memory_budget=memory_budget,
        world=world,
    )
    parts = [query_metrics(_first(group, left), ks) for group in ranks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _first(ranks: RelevantRanks, left: Tensor) -> RelevantRanks:
    """Without the relevant images that stand past the images left to a query: its near-duplicates."""
    stays = ranks.above < left.to(ranks.above.device)[ranks.query][ranks.row]
    return replace(ranks, row=ranks.row[stays], above=ranks.above[stays], tied=ranks.tied[stays])
