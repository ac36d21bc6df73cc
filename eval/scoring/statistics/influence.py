"""What each image does to an average as a gallery image: by how much it would change if the image were away.

In leave-one-out every image is a query and stands in the gallery of all others, so an average over other images of the
same classes moves more than its queries alone say. The effect of taking away one gallery image is exact for every query
(a rank above it stays, a rank below it moves up by one, a relevant image is no longer counted), and all the metrics
here are sums over relevant images i with ranks r_i, so suffix sums give the effect of every place in a ranking at once.

Effects are taken of a sample of images, spread over the classes, and added up over all queries while they are scored.
Equal scores are taken in one order: these are parts of a variance, not metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.ranking import RelevantRanks
from timm_gam.core import World
from timm_gam.search import Scorer, slices

SAMPLE = 512
"""Gallery images whose effect is measured, at most; all where there are no more."""

_LEAST_PER_CLASS = 2  # of a sampled class: one image says nothing of the spread within it
_PAIRS = 2**22  # (image, query) pairs looked up at a time


@dataclass(frozen=True)
class Influence:
    """Effects of M gallery images on the averages of metrics.

    Attributes:
        image: (M,) int64 gallery rows, ascending by class.
        label: (M,) int64 class of each.
        own: (M,) int64 query that is this very image, -1 where it is none.
        class_size: (M,) int64 gallery images of its class.
        gallery: How many gallery images there are in all.
        effects: Metric name -> (2, 2, M) float64 change of [micro, macro] through queries of [its own class, others],
            were the image away.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    own: NDArray[np.int64]
    class_size: NDArray[np.int64]
    gallery: int
    effects: dict[str, NDArray[np.float64]]


def sample_images(labels: NDArray[np.int64], most: int = SAMPLE) -> NDArray[np.int64]:
    """Rows to measure, evenly spread: every image, or some of every class, or some of every few classes.

    Args:
        labels: (N,) class of each gallery image.
        most: About how many to take.

    Returns:
        (M,) int64, ascending by class; at least 2 of a class that has them.
    """
    order = np.argsort(labels, kind="stable")
    if len(labels) <= most:
        return order
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    share = most / len(labels)
    per_class = np.minimum(sizes, np.maximum(_LEAST_PER_CLASS, np.round(sizes * share).astype(np.int64)))
    step = max(1, round(per_class.sum() / most))
    chosen = [
        first[i] + (np.arange(per_class[i]) * sizes[i]) // per_class[i] for i in range(step // 2, len(sizes), step)
    ]
    taken: NDArray[np.int64] = order[np.concatenate(chosen)]
    return taken


class InfluenceCounter:
    """Adds up the effects of sampled images, group by group of ranked queries.

    Args:
        scorer: Scores of the queries against the gallery.
        classes: (Q,) int64 class of each query.
        gallery_classes: (N,) of each gallery image.
        self_index: (Q,) gallery row that is the query, -1 for none.
        scored: (Q,) which queries have relevant images; averages are over these.
        names: Metrics, as `eval.scoring.metrics.metric_names` has them.
        most: Images to sample.
    """

    def __init__(
        self,
        scorer: Scorer,
        classes: NDArray[np.int64],
        gallery_classes: NDArray[np.int64],
        self_index: NDArray[np.int64],
        scored: NDArray[np.bool_],
        names: Sequence[str],
        most: int = SAMPLE,
    ) -> None:
        self._scorer, self._names, device = scorer, list(names), scorer.device
        image = sample_images(gallery_classes, most)
        itself = np.flatnonzero(self_index >= 0)[::-1]
        query_of = np.full(len(gallery_classes), -1, dtype=np.int64)
        query_of[self_index[itself]] = itself
        label, class_sizes = gallery_classes[image], np.bincount(gallery_classes)
        self._found = Influence(image, label, query_of[image], class_sizes[label], scorer.gallery, {})
        self._classes, self._label, self._own = (
            torch.from_numpy(each).to(device) for each in (classes, label, self._found.own)
        )
        sizes = np.bincount(classes[scored], minlength=int(classes.max(initial=0)) + 1)
        macro = 1.0 / (np.count_nonzero(sizes) * np.maximum(sizes[classes], 1))
        weights = np.stack([np.full(len(classes), 1.0 / scored.sum()), macro]) * scored
        self._weights = torch.from_numpy(weights).to(device)
        self._even = np.allclose(*weights)
        self._sums = torch.zeros(2, 2, len(self._found.image), len(self._names), dtype=torch.float64, device=device)

    def add(self, ranks: RelevantRanks) -> None:
        """Take in a group of consecutive queries."""
        if not len(ranks.query) or not len(ranks.row):
            return
        first = int(ranks.query[0])
        places = _Places.of(ranks)
        table = _effects(places, self._names)
        scores = self._scorer.block(slice(first, first + len(ranks.query)), self._found.image)
        above = places.above(scores)
        mine = self._classes[ranks.query][:, None] == self._label
        width = places.rank.shape[1]
        # A relevant image stands at the place that it takes itself; the last row of a table is no effect at all.
        place = torch.where(mine, width + 1 + above.clamp(max=width - 1), above)
        place += torch.arange(len(place), device=place.device)[:, None] * (2 * width + 1)
        nothing = table.shape[0] - 1
        place[ranks.query[:, None] == self._own] = nothing
        self._add_same(place, mine, table, ranks.query)
        place[mine] = nothing
        self._add_others(place, table, ranks.query)

    def _add_same(self, place: Tensor, mine: Tensor, table: Tensor, query: Tensor) -> None:
        """Effects through queries of an image's own class: few of all pairs."""
        for part in slices(0, len(place), max(1, _PAIRS // max(1, len(self._found.image)))):
            row, image = torch.nonzero(mine[part], as_tuple=True)
            effect = table[place[part][row, image]].double()
            for kind, weight in enumerate(self._weights[:, query[part]]):
                self._sums[kind, 0].index_add_(0, image, effect * weight[row, None])

    def _add_others(self, place: Tensor, table: Tensor, query: Tensor) -> None:
        """Effects through all other queries."""
        weights = self._weights[:, query].to(table.dtype)
        for part in slices(0, len(self._found.image), max(1, _PAIRS // len(place))):
            index = place[:, part].T.contiguous()
            for kind, weight in enumerate(weights[: 1 if self._even else 2]):
                # 0.004 s for 1,000 queries, 512 images and 24 metrics on one core; 0.075 s if rows are gathered first.
                self._sums[kind, 1, part] += F.embedding_bag(
                    index, table, mode="sum", per_sample_weights=weight.expand(index.shape).contiguous()
                ).double()

    def result(self, world: World) -> Influence:
        """What all processes added up."""
        if self._even:  # all queries weigh alike
            self._sums[1, 1] = self._sums[0, 1]
        sums = world.sum(self._sums).cpu().numpy()
        names = enumerate(self._names)
        return replace(self._found, effects={name: np.ascontiguousarray(sums[..., column]) for column, name in names})


@dataclass(frozen=True)
class _Places:
    """Relevant images of Q queries by rank, filled up to the most, W, that one has.

    Attributes:
        rank: (Q, W) float64 ranks from 1, ascending; infinite where there is none.
        count: (Q, 1) int64 relevant images, R.
        score: (Q, W) float64 their scores, ascending; infinite where there is none.
    """

    rank: Tensor
    count: Tensor
    score: Tensor

    @classmethod
    def of(cls, ranks: RelevantRanks) -> _Places:
        count = torch.bincount(ranks.row, minlength=len(ranks.query))
        place = torch.arange(len(ranks.row), device=ranks.row.device)
        opens = torch.ones_like(ranks.row, dtype=torch.bool)
        opens[1:] = (ranks.row[1:] != ranks.row[:-1]) | (ranks.above[1:] != ranks.above[:-1])
        among_equals = place - torch.where(opens, place, 0).cummax(0).values
        column = place - (count.cumsum(0) - count)[ranks.row]
        shape = len(ranks.query), int(count.max())
        rank, score = (torch.full(shape, torch.inf, dtype=torch.float64, device=count.device) for _ in range(2))
        rank[ranks.row, column] = (ranks.above + 1 + among_equals).double()
        score[ranks.row, count[ranks.row] - 1 - column] = ranks.score  # type: ignore[assignment]
        return cls(rank, count[:, None], score)

    def above(self, scores: Tensor) -> Tensor:
        """(Q, M) int64: relevant images that score above each of (Q, M) scores."""
        not_above = torch.searchsorted(self.score, scores.contiguous(), right=True)
        return (self.count - not_above).clamp_(min=0)


def _effects(places: _Places, names: Sequence[str]) -> Tensor:
    """(Q (2 W + 1) + 1, metrics) float32: the change of each query's metrics if an image of its ranking were away.

    The first W + 1 rows of a query: an irrelevant image below 0, 1, ... W relevant ones. The other W: the first,
    second, ... relevant image itself. The last row of all is zero.
    """
    rank, count = places.rank, places.count
    queries, width = rank.shape
    number = torch.arange(1, width + 1, dtype=torch.float64, device=rank.device)
    fewer = (count - 1).clamp(min=1)
    table = torch.zeros(queries, 2 * width + 1, len(names), dtype=torch.float32, device=rank.device)
    there = number <= count
    for column, name in enumerate(names):
        term, scale = _metric(name)
        now, up, still, moved = (
            torch.where(there, term(*at), 0.0)
            for at in (
                (number, rank, count),
                (number, rank - 1, count),
                (number, rank, fewer),
                (number - 1, rank - 1, fewer),
            )
        )
        of_all, of_fewer = scale(count.clamp(min=1)), scale(fewer)
        # Irrelevant: every relevant image below it moves up one rank.
        table[:, :width, column] = ((up - now).flip(1).cumsum(1).flip(1) / of_all).float()
        # Relevant: those above stay, those below move up by one rank and one place; a single one is not taken away.
        above = still.cumsum(1) - still
        below = moved.flip(1).cumsum(1).flip(1) - moved
        change = (above + below) / of_fewer - now.sum(1, keepdim=True) / of_all
        table[:, width + 1 :, column] = torch.where(there & (count > 1), change, 0.0).float()
    flat = table.view(queries * (2 * width + 1), len(names))
    return torch.cat([flat, flat.new_zeros(1, len(names))])


_Term = Callable[[Tensor, Tensor, Tensor], Tensor]
_Scale = Callable[[Tensor], Tensor]


def _metric(name: str) -> tuple[_Term, _Scale]:
    """A metric as (sum over relevant images of term(number, rank, R)) / scale(R), from `eval.scoring.metrics`."""
    kind, _, cutoff = name.partition("@")
    k = int(cutoff) if cutoff.isdigit() else 0

    def within(number: Tensor, rank: Tensor, count: Tensor) -> Tensor:
        return (rank <= k).double()

    def precision(number: Tensor, rank: Tensor, count: Tensor) -> Tensor:
        return number / rank.clamp(min=1)

    def discounted(number: Tensor, rank: Tensor, count: Tensor) -> Tensor:
        return torch.where(rank <= k, 1.0 / torch.log2(rank.clamp(min=1) + 1.0), 0.0)

    def ideal(count: Tensor) -> Tensor:
        sums = torch.cumsum(1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=count.device)), 0)
        return sums[count.clamp(1, k) - 1]

    def one(count: Tensor) -> Tensor:
        return torch.ones_like(count, dtype=torch.float64)

    metrics: dict[str, tuple[_Term, _Scale]] = {
        "precision": (within, lambda count: one(count) * k),
        "recall": (within, Tensor.double),
        "hit": (lambda number, rank, count: ((number == 1) & (rank <= k)).double(), one),
        "ndcg": (discounted, ideal),
        "map": (precision, Tensor.double),
        "map@r": (lambda *at: torch.where(at[1] <= at[2], precision(*at), 0.0), Tensor.double),
        "r_precision": (lambda number, rank, count: (rank <= count).double(), Tensor.double),
        "mrr": (lambda number, rank, count: (number == 1) / rank.clamp(min=1), one),
    }
    return metrics[name if name in metrics else kind]
