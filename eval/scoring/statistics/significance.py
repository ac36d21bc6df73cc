"""Are two models different? Means over seeds, intervals for other queries, and two permutation tests.

The tests ask different questions. Over queries: would these very weights differ on other queries of the same kind?
Over runs: would the architectures differ if both were trained again? Three seeds each give 20 ways to deal six runs to
two models, so the second cannot fall below 0.1, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from eval.scoring.statistics.intervals import average, difference

Floats = NDArray[np.float64]

PERMUTATIONS = 10_000
_ROWS = 500  # permutations at a time: bounded memory


@dataclass(frozen=True)
class Summary:
    """One metric of one model over its S runs.

    Attributes:
        mean: Of the runs.
        spread: Their standard deviation (n - 1); None for a single run.
        interval: 95 % interval of `mean` for other queries of the same classes; weights and gallery stay fixed.
        runs: The value of each run.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None
    runs: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """One metric of model `a` less that of model `b`.

    Attributes:
        mean: Difference of their means over runs.
        interval: 95 % interval for other queries of the same classes, which both models share.
        p_queries: Two-sided, paired over queries; Holm-adjusted over all pairs of the metric.
        p_runs: Two-sided, over runs, exact; adjusted likewise.
        p_runs_least: What `p_runs` could be at least before adjustment, by the number of runs.
    """

    a: str
    b: str
    mean: float
    interval: tuple[float, float] | None
    p_queries: float
    p_runs: float
    p_runs_least: float


def summarise(values: Floats, labels: NDArray[np.int64]) -> Summary:
    """Summarise (S, Q) values of a metric, S runs by Q queries with (Q,) classes.

    >>> runs = np.array([[1.0, 0.5, 1.0, 0.5], [0.5, 0.5, 1.0, 0.5]])
    >>> summarise(runs, np.array([0, 0, 1, 1])).runs
    (0.75, 0.625)
    """
    runs = values.mean(axis=1)
    spread = float(runs.std(ddof=1)) if len(runs) > 1 else None
    interval = average({"value": values.mean(axis=0)}, labels)["value"].micro_interval
    return Summary(float(runs.mean()), spread, interval, tuple(runs.tolist()))


def compare(models: dict[str, Floats], labels: NDArray[np.int64]) -> list[Difference]:
    """Compare every two models on one metric.

    Args:
        models: Name -> (S, Q) values, S its runs by Q queries that all models share.
        labels: (Q,) class of each query.

    >>> a, b = np.array([[1.0, 0.5, 1.0, 0.5]]), np.array([[0.5, 0.5, 0.5, 0.5]])
    >>> [difference] = compare({"a": a, "b": b}, np.array([0, 0, 1, 1]))
    >>> difference.mean
    0.25
    """
    pairs = list(combinations(models, 2))
    per_query = {name: values.mean(axis=0) for name, values in models.items()}
    per_run = {name: values.mean(axis=1) for name, values in models.items()}
    over_queries = holm([p_over_queries(per_query[a] - per_query[b]) for a, b in pairs])
    over_runs = [p_over_runs(per_run[a], per_run[b]) for a, b in pairs]
    adjusted = holm([p for p, _ in over_runs])
    return [
        Difference(
            a,
            b,
            float((per_query[a] - per_query[b]).mean()),
            difference("value", per_query[a] - per_query[b], labels)[1],
            over_queries[i],
            adjusted[i],
            over_runs[i][1],
        )
        for i, (a, b) in enumerate(pairs)
    ]


def p_over_queries(differences: Floats, seed: int = 0, permutations: int = PERMUTATIONS) -> float:
    """Two-sided paired randomization test: were the signs of (Q,) differences drawn by a coin?

    Smucker, Allan, Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation"
    (CIKM 2007). The observed signs count as one of the permutations, so the result is never 0.

    >>> import eval, numpy as np
    >>> eval.p_over_queries(np.full(100, 0.1)) < 0.001
    True
    """
    return p_of_pairs(differences[:, None], seed, permutations)[0]


def p_of_pairs(differences: Floats, seed: int = 0, permutations: int = PERMUTATIONS) -> list[float]:
    """`p_over_queries` of each column of (Q, P) differences, all by the same coins, in the time of few."""
    observed = np.abs(differences.sum(axis=0))
    rng = np.random.Generator(np.random.PCG64(seed))
    as_large = np.ones(differences.shape[1], dtype=np.int64)
    for start in range(0, permutations, _ROWS):
        rows = min(_ROWS, permutations - start)
        signs = rng.integers(0, 2, (rows, len(differences)), dtype=np.int8).astype(np.float64) * 2 - 1
        # The small share keeps sums that are equal but for rounding on the same side.
        as_large += (np.abs(signs @ differences) >= observed * (1 - 1e-12)).sum(axis=0)
    return (as_large / (permutations + 1)).tolist()  # type: ignore[no-any-return]


def p_over_runs(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> tuple[float, float]:
    """Two-sided exact permutation test of the means of two groups of runs, and the least it can give.

    All ways to deal the runs to the two groups are equally likely if the groups do not differ (Fisher, The Design of
    Experiments, 1935, section 21).

    >>> import eval
    >>> eval.p_over_runs([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])
    (0.1, 0.1)
    """
    runs, first = np.concatenate([a, b]), len(a)
    total = runs.sum()
    observed = abs(np.mean(a) - np.mean(b))
    deals = [np.array(chosen) for chosen in combinations(range(len(runs)), first)]
    sums = np.array([runs[chosen].sum() for chosen in deals])
    gaps = np.abs(sums / first - (total - sums) / len(b))
    least = (2 if len(a) == len(b) else 1) / math.comb(len(runs), first)
    return float((gaps >= observed - 1e-12).mean()), min(1.0, least)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p values for how many there are (Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> import eval
    >>> eval.holm([0.01, 0.04, 0.5])
    [0.03, 0.08, 0.5]
    """
    order = np.argsort(ps, kind="stable")
    adjusted = np.empty(len(ps))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(ps), 0, -1) * np.asarray(ps)[order]))
    return adjusted.tolist()  # type: ignore[no-any-return]
