"""Results in order of a metric, with what the queries can and cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.results.comparison import check_same_queries
from eval.results.result import RetrievalResult
from eval.scoring.statistics.significance import holm, p_of_pairs
from timm_gam.core import DataError

SIGNIFICANT = 0.05
_REPLICATES = 1000


@dataclass(frozen=True)
class Standing:
    """Where one result stands among others of the same queries.

    Two are told apart by a paired permutation test over queries, Holm-adjusted over all pairs, at p < 0.05.

    Attributes:
        result: The result.
        value: Mean of the metric, in [0, 1].
        place: From 1, by that mean alone.
        place_interval: 95 % bootstrap interval of the place: the same resampled queries for all.
        rank: 1 and the number of results that are told apart from it and better: those of one rank are tied.
        tied: Whether another has the same rank.
        group: Letters; two that share one are not told apart.
    """

    result: RetrievalResult
    value: float
    place: int
    place_interval: tuple[int, int]
    rank: int
    tied: bool
    group: str


def standings(results: Sequence[RetrievalResult], metric: str = "map") -> list[Standing]:
    """Order results by a metric, best first.

    Args:
        results: Of the same queries.
        metric: Any that all results have.

    Raises:
        DataError: no results, of other queries, or without the metric.

    >>> import eval
    >>> good = eval.score([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]], [0, 0, 1, 1], name="good")
    >>> bad = eval.score([[1.0, 0], [0, 1.0], [0.9, 0.1], [0.1, 0.9]], [0, 0, 1, 1], name="bad")
    >>> [(one.result.name, one.place, one.rank, one.group) for one in standings([bad, good])]
    [('good', 1, 1, 'a'), ('bad', 2, 1, 'a')]
    """
    if not results:
        raise DataError("no results to order; score at least one model")
    for other in results[1:]:
        check_same_queries(results[0], other)
    values = np.stack([result.metric(metric) for result in results])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.shape[1]:
        raise DataError("no query was scored in all results; order results of the same protocol")
    order = np.argsort(-values.mean(axis=1), kind="stable")
    values = values[order]
    means = values.mean(axis=1)
    pairs = list(combinations(range(len(values)), 2))
    differences = np.stack([values[i] - values[j] for i, j in pairs], axis=1) if pairs else np.empty((0, 0))
    apart = {
        pair
        for pair, p in zip(pairs, holm(p_of_pairs(differences)), strict=True)
        if p < SIGNIFICANT and means[pair[0]] > means[pair[1]]
    }
    ranks = [1 + sum((better, place) in apart for better in range(place)) for place in range(len(values))]
    low, high = _place_intervals(values)
    groups = _groups(len(values), apart)
    return [
        Standing(
            results[i],
            float(means[place]),
            place + 1,
            (int(low[place]), int(high[place])),
            ranks[place],
            ranks.count(ranks[place]) > 1,
            groups[place],
        )
        for place, i in enumerate(order.tolist())
    ]


def _place_intervals(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) lowest and highest place of each model in the middle 95 % of resampled sets of queries."""
    rng = np.random.Generator(np.random.PCG64(0))
    queries = values.shape[1]
    ranks = np.empty((_REPLICATES, len(values)))
    for replicate in range(_REPLICATES):
        means = values @ np.bincount(rng.integers(0, queries, queries), minlength=queries)
        ranks[replicate] = 1 + (means[None, :] > means[:, None]).sum(axis=1)
    low, high = np.quantile(ranks, (0.025, 0.975), axis=0, method="nearest")
    return low, high


def _groups(count: int, apart: set[tuple[int, int]]) -> list[str]:
    """Letters of models in order: each run of models of which no two are told apart, if no other run holds it."""
    runs: list[tuple[int, int]] = []
    for start in range(count):
        stop = start + 1
        while stop < count and not any((i, stop) in apart for i in range(start, stop)):
            stop += 1
        if not runs or stop > runs[-1][1]:
            runs.append((start, stop))
    return ["".join(_letter(n) for n, (start, stop) in enumerate(runs) if start <= i < stop) for i in range(count)]


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letter(number // 26 - 1) + chr(ord("a") + number % 26)
