"""Which queries a page shows: the best and worst by every metric, and a few drawn at random, within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eval.results.result import RetrievalResult

RANKED = 10
"""Ranked images that are shown for each query."""

_MOST = 12  # queries of each kind
_TIE_BREAK = "map"


@dataclass(frozen=True)
class Chosen:
    """Places of queries in a result, for each metric worst first and best first, and some at random."""

    worst: dict[str, list[int]]
    best: dict[str, list[int]]
    random: list[int]

    def places(self) -> list[int]:
        """All of them, once, ascending."""
        lists = [*self.worst.values(), *self.best.values(), self.random]
        return sorted({place for places in lists for place in places})


def choose_queries(results: Sequence[RetrievalResult], most_images: int) -> list[Chosen]:
    """For each result the same number of queries by each metric, as many as `most_images` pictures in all allow."""
    for number in range(_MOST, 0, -1):
        chosen = [_choose(result, number) for result in results]
        shown = {i for r, c in zip(results, chosen, strict=True) for i in images_shown(r, c.places())}
        if len(shown) <= most_images:
            break
    return chosen


def images_shown(result: RetrievalResult, places: Sequence[int]) -> Iterator[str]:
    """Ids of the queries at some places and of what was ranked for them."""
    for place in places:
        yield result.ids[result.query[place]]
        yield from (result.ids[row] for row in result.neighbours[place, :RANKED])


def _choose(result: RetrievalResult, number: int) -> Chosen:
    scored = np.flatnonzero(result.scored)
    second = result.metric(_TIE_BREAK)[scored]
    worst, best = {}, {}
    for name, values in result.per_query.items():
        # Hundreds of queries have hit@1 = 0: the worst of them by AP stand for them.
        worst[name] = scored[np.lexsort((second, values[scored]))[:number]].tolist()
        best[name] = scored[np.lexsort((-second, -values[scored]))[:number]].tolist()
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = rng.choice(scored, size=min(number, len(scored)), replace=False)
    return Chosen(worst, best, drawn.tolist())
