"""Models in order of a metric, with what the queries can and cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.results.comparison import check_same_queries
from eval.results.result import RetrievalResult
from eval.scoring.significance import holm, p_over_queries
from timm_gam.core import DataError

_ALPHA = 0.05


@dataclass(frozen=True)
class Standing:
    """Where one model stands.

    Attributes:
        name: Of the model.
        value: The metric, in [0, 1].
        rank: From 1, by the metric.
        rank_interval: 95 % bootstrap interval of the rank: the same resampled queries for all models.
        group: Letters; two models that share one are not told apart (paired permutation test over queries,
            Holm-adjusted over all pairs, p >= 0.05).
    """

    name: str
    value: float
    rank: int
    rank_interval: tuple[int, int]
    group: str


def standings(
    results: Sequence[RetrievalResult], metric: str = "map", *, replicates: int = 1000, seed: int = 0
) -> list[Standing]:
    """Order models by a metric, best first.

    Args:
        results: Of the same queries.
        metric: Any that all results have.
        replicates: Bootstrap replicates of the ranks.
        seed: Of the bootstrap and the permutations.

    Raises:
        DataError: no results, of other queries, or without the metric.

    >>> import eval
    >>> good = eval.score([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]], [0, 0, 1, 1], name="good")
    >>> bad = eval.score([[1.0, 0], [0, 1.0], [0.9, 0.1], [0.1, 0.9]], [0, 0, 1, 1], name="bad")
    >>> [(one.name, one.rank, one.group) for one in standings([bad, good])]
    [('good', 1, 'a'), ('bad', 2, 'a')]
    """
    if not results:
        raise DataError("no results to order; score at least one model")
    for other in results[1:]:
        check_same_queries(results[0], other)
    values = np.stack([result.metric(metric) for result in results])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.shape[1]:
        raise DataError("no query was scored in all results; order results of the same protocol")
    means = values.mean(axis=1)
    order = np.argsort(-means, kind="stable")
    low, high = _rank_intervals(values, replicates, seed)
    groups = _groups(values[order], seed)
    return [
        Standing(results[i].name, float(means[i]), place + 1, (int(low[i]), int(high[i])), groups[place])
        for place, i in enumerate(order.tolist())
    ]


def _rank_intervals(values: np.ndarray, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(M,) lowest and highest rank of each model in the middle 95 % of resampled sets of queries."""
    rng = np.random.Generator(np.random.PCG64(seed))
    queries = values.shape[1]
    ranks = np.empty((replicates, len(values)))
    for replicate in range(replicates):
        means = values @ np.bincount(rng.integers(0, queries, queries), minlength=queries)
        ranks[replicate] = 1 + (means[None, :] > means[:, None]).sum(axis=1)
    low, high = np.quantile(ranks, (0.025, 0.975), axis=0, method="nearest")
    return low, high


def _groups(ordered: np.ndarray, seed: int) -> list[str]:
    """Letters of M models in order: each run of models of which no two are told apart, if no other run holds it."""
    count = len(ordered)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    adjusted = dict(zip(pairs, holm([p_over_queries(ordered[i] - ordered[j], seed) for i, j in pairs]), strict=True))
    runs: list[tuple[int, int]] = []
    for start in range(count):
        stop = start + 1
        while stop < count and all(adjusted[i, stop] >= _ALPHA for i in range(start, stop)):
            stop += 1
        if not runs or stop > runs[-1][1]:
            runs.append((start, stop))
    return ["".join(_letter(n) for n, (start, stop) in enumerate(runs) if start <= i < stop) for i in range(count)]


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letter(number // 26 - 1) + chr(ord("a") + number % 26)
