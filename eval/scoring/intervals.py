"""Metrics of each query -> averages with 95 % bootstrap intervals, and the per-class table.

micro: the mean over queries. macro: the mean over classes of each class's mean, so that large classes weigh no
more than small ones.

Intervals are percentile bootstrap intervals over queries (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, section 13.3): micro resamples all queries, macro resamples within each class. They say how much the
average would move with other queries from the same classes; the gallery and the weights stay fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Average:
    """One metric averaged over queries.

    Attributes:
        micro: Mean over queries.
        macro: Mean over classes of class means.
        micro_interval: (low, high) 95 % bootstrap interval of `micro`, or None where none was asked for.
        macro_interval: The same for `macro`.
    """

    micro: float
    macro: float
    micro_interval: tuple[float, float] | None
    macro_interval: tuple[float, float] | None


def average(
    values: dict[str, Floats],
    labels: NDArray[np.int64],
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Average]:
    """Average each metric over queries, with bootstrap intervals.

    All metrics share the resampled queries. Cost: `replicates` x Q draws, in bounded memory.

    Args:
        values: Metric name -> (Q,) finite values, Q >= 1.
        labels: (Q,) class of each query.
        replicates: Bootstrap replicates; 0 for no intervals.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Of the PCG64 generator; the same seed, data and NumPy give the same intervals.
    """
    matrix = np.stack(list(values.values()), axis=1)  # (Q, M)
    order = np.argsort(labels, kind="stable")
    matrix, sizes = matrix[order], np.unique(labels, return_counts=True)[1]
    micro = matrix.mean(axis=0)
    # Weight of each query in the macro average: 1 / (classes x size of its class).
    macro_weight = np.repeat(1.0 / (len(sizes) * sizes), sizes)
    macro = macro_weight @ matrix
    if replicates == 0:
        nothing = [None] * matrix.shape[1]
        return _averages(values, micro, macro, nothing, nothing)
    rng = np.random.Generator(np.random.PCG64(seed))
    count = len(matrix)
    first, span = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    uniform = np.full(count, 1.0 / count)
    micro_interval = _interval(matrix, uniform, lambda: rng.integers(0, count, count), replicates, tails)
    macro_interval = _interval(
        matrix, macro_weight, lambda: first + (rng.random(count) * span).astype(np.int64), replicates, tails
    )
    return _averages(values, micro, macro, micro_interval, macro_interval)


def class_means(values: dict[str, Floats], labels: NDArray[np.int64]) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Yield (class, number of queries, metric name -> mean) for each class that has queries, in class order."""
    for label in np.unique(labels):
        members = labels == label
        yield int(label), int(members.sum()), {name: float(column[members].mean()) for name, column in values.items()}


def _interval(
    matrix: Floats,
    weight: Floats,
    draw: Callable[[], NDArray[np.int64]],
    replicates: int,
    tails: tuple[float, float],
) -> list[tuple[float, float]]:
    """Percentile interval of each column's weighted mean when the rows are replaced by drawn ones."""
    count = len(matrix)
    rows = max(1, _CHUNK_BYTES // (8 * count))
    means = np.empty((replicates, matrix.shape[1]))
    for start in range(0, replicates, rows):
        stop = min(start + rows, replicates)
        # How often each row was drawn, times its weight: within a class all weights are equal.
        drawn = np.stack([np.bincount(draw(), minlength=count) for _ in range(start, stop)])
        means[start:stop] = (drawn * weight) @ matrix
    low, high = np.quantile(means, tails, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _averages(
    values: dict[str, Floats],
    micro: Floats,
    macro: Floats,
    micro_interval: list[tuple[float, float]] | list[None],
    macro_interval: list[tuple[float, float]] | list[None],
) -> dict[str, Average]:
    columns = zip(micro.tolist(), macro.tolist(), micro_interval, macro_interval, strict=True)
    return {name: Average(*column) for name, column in zip(values, columns, strict=True)}
