"""Which of several models is best by a metric, and which the queries cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.results.comparison import check_same_queries
from eval.results.result import RetrievalResult
from eval.scoring.significance import holm, p_of_pairs

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Standing:
    """A result's place among others.

    Attributes:
        result: The result.
        rank: 1 and the number of models that are significantly better: models with one rank are tied.
        tied: Whether another has the same rank.
    """

    result: RetrievalResult
    rank: int
    tied: bool


def standings(results: Sequence[RetrievalResult], metric: str = "map") -> list[Standing]:
    """Results in order of a metric's mean, best first, ranked by what the queries can tell.

    Every two are compared by a paired permutation test over the queries that both scored, Holm-adjusted over all pairs;
    below 0.05 the one with the higher mean is better.

    Raises:
        DataError: a result lacks the metric, or has other queries than the first.
    """
    for other in results[1:]:
        check_same_queries(results[0], other)
    values = np.stack([result.metric(metric) for result in results], axis=1) if results else np.empty((0, 0))
    values = values[np.isfinite(values).all(axis=1)]
    means = values.mean(axis=0)
    pairs = list(combinations(range(len(results)), 2))
    better = [0] * len(results)
    if pairs:
        differences = np.stack([values[:, a] - values[:, b] for a, b in pairs], axis=1)
        for (a, b), p in zip(pairs, holm(p_of_pairs(differences)), strict=True):
            if p < SIGNIFICANT and means[a] != means[b]:
                better[a if means[a] < means[b] else b] += 1
    order = sorted(range(len(results)), key=lambda i: -means[i])
    ranks = [1 + count for count in better]
    return [Standing(results[i], ranks[i], ranks.count(ranks[i]) > 1) for i in order]
