"""Metrics of each query -> averages with 95 % intervals for a named population, and the per-class table.

micro: the mean over queries. macro: the mean over classes of each class's mean, so that large classes weigh no
more than small ones.

An interval answers how far the average would move with other ... of the same kind; the weights stay fixed:

queries: other queries of the same classes, against the very same gallery.
images: other images of the same classes. In leave-one-out the gallery changes with the queries, so an image counts
    by its own metric and by what it does to all others' rankings (`eval.scoring.statistics.influence`).
classes: other classes. Images of one class stand or fall together, so whole classes are what is drawn.

The variance is the infinitesimal jackknife's (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982,
chapter 6): of each image's or class's influence on the average, within classes or over them. The interval around an
average is Wilson's with Student's t and the sample size that the variance stands for (Korn and Graubard, Survey
Methodology 24, 1998): it stays in [0, 1], and has a width where every query scores 1. Around a difference it is
Student's t. `benchmarks/scoring/coverage.py` measures how often they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.scoring.statistics.influence import Influence

Floats = NDArray[np.float64]
Population = Literal["queries", "images", "classes"]
Interval = tuple[float, float]

LEAST_CLASSES = 8
"""With fewer there is no interval for other classes: too few to tell how far classes differ."""
LEAST_REPEATED = 8
"""Queries, or images, beyond the first of their class; with fewer there is no interval: the data are too few."""


@dataclass(frozen=True)
class Average:
    """One metric averaged over queries.

    Attributes:
        micro: Mean over queries.
        macro: Mean over classes of class means.
        micro_interval: (low, high) 95 % interval of `micro`, or None where none was asked for or the data are too few.
        macro_interval: The same for `macro`.
    """

    micro: float
    macro: float
    micro_interval: Interval | None
    macro_interval: Interval | None


_ROUNDING = 1e-28  # a variance of averages of metrics, which are in [0, 1]


class Spread(NamedTuple):
    """How an average varies: its variance and the degrees of freedom that this was estimated with; None: unknown."""

    variance: float
    freedom: float


def average(
    values: dict[str, Floats],
    labels: NDArray[np.int64],
    *,
    population: Population | None = "queries",
    influence: Influence | None = None,
) -> dict[str, Average]:
    """Average each metric over queries, with intervals.

    Args:
        values: Metric name -> (Q,) values in [0, 1], Q >= 1; NaN for queries that no average counts.
        labels: (Q,) class of each query.
        population: Of the intervals; None for none.
        influence: Of gallery images; None where the gallery is fixed, or another is drawn for every query.

    >>> import numpy as np
    >>> hits = {"hit@1": np.array([1.0] * 18 + [0.0] * 2)}
    >>> [round(bound, 3) for bound in average(hits, np.repeat([0, 1], 10))["hit@1"].micro_interval]
    [0.662, 0.976]
    """
    found, codes = {}, np.unique(labels, return_inverse=True)[1]
    for name, column in values.items():
        scored = np.isfinite(column)
        means = _means(column[scored], codes[scored])
        intervals: list[Interval | None] = [None, None]
        if population is not None:
            spreads = _spreads(name, column, labels, population, influence)
            count = len(np.unique(labels[scored])) if population == "classes" else int(scored.sum())
            intervals = [
                _wilson(mean, spread, count) if spread is not None else None
                for mean, spread in zip(means, spreads, strict=True)
            ]
        found[name] = Average(*means, *intervals)
    return found


def difference(
    name: str,
    values: Floats,
    labels: NDArray[np.int64],
    *,
    population: Population = "queries",
    influences: tuple[Influence, Influence] | None = None,
) -> tuple[float, Interval | None, float | None]:
    """The mean of paired differences of a metric, its 95 % interval, and the p value of there being none.

    Args:
        name: The metric.
        values: (Q,) differences; NaN where a query was not scored.
        labels: (Q,) class of each query.
        population: Of the interval.
        influences: Of both sides' gallery images, the same ones.

    Returns:
        Mean; (low, high) or None where the data are too few; two-sided p of Student's t for the same population, which
        is below 0.05 where the 95 % interval leaves out 0, or None.
    """
    from scipy import stats  # type: ignore[import-untyped]

    mean = float(values[np.isfinite(values)].mean())
    spread = difference_spread(name, values, labels, population=population, influences=influences)
    if spread is None:
        return mean, None, None
    error = spread.variance**0.5
    half = float(stats.t.ppf(0.975, spread.freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, spread.freedom)) if error > 0 else float(mean == 0)
    return mean, (mean - half, mean + half), p


def difference_spread(
    name: str,
    values: Floats,
    labels: NDArray[np.int64],
    *,
    population: Population = "queries",
    influences: tuple[Influence, Influence] | None = None,
) -> Spread | None:
    """How the mean of paired differences varies; arguments as for `difference`; None where the data are too few."""
    influence = None
    if influences is not None:
        a, b = influences
        influence = replace(a, effects={name: a.effects[name] - b.effects[name]})
    return _spreads(name, values, labels, population, influence)[0]


def class_means(values: dict[str, Floats], labels: NDArray[np.int64]) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Yield (class, number of queries, metric name -> mean) for each class that has queries, in class order.

    >>> import eval, numpy as np
    >>> list(eval.class_means({"map": np.array([0.5, 1.0, 0.0])}, np.array([0, 0, 1])))
    [(0, 2, {'map': 0.75}), (1, 1, {'map': 0.0})]
    """
    for label in np.unique(labels):
        members = labels == label
        yield int(label), int(members.sum()), {name: float(column[members].mean()) for name, column in values.items()}


def _means(values: Floats, codes: NDArray[np.int64]) -> tuple[float, float]:
    """Micro and macro."""
    sizes = np.bincount(codes)
    return float(values.mean()), float((np.bincount(codes, values)[sizes > 0] / sizes[sizes > 0]).mean())


def _spreads(
    name: str, values: Floats, labels: NDArray[np.int64], population: Population, influence: Influence | None
) -> list[Spread | None]:
    """Of the micro and the macro average."""
    scored = np.isfinite(values)
    _, codes, sizes = np.unique(labels[scored], return_inverse=True, return_counts=True)
    weights = np.zeros((2, len(values)))
    weights[:, scored] = np.stack([np.full(len(codes), 1 / len(codes)), 1 / (len(sizes) * sizes[codes])])
    known = np.where(scored, values, 0.0)
    found = []
    for kind, weight in enumerate(weights):
        mean = float(weight @ known)
        centred = weight * (known - mean) * scored  # what each query adds to the average
        queries = _Images(centred[scored], labels[scored], weight[scored], sizes[codes], len(codes))
        if population == "classes":
            found.append(_over_classes(centred[scored], labels[scored], influence, name, kind))
        elif population == "images" and influence is not None:
            shares = influence.class_size if kind else np.ones(len(influence.image))
            own = influence.own
            mine = np.where(own >= 0, centred[own], 0.0) - influence.effects[name][kind].sum(axis=0)
            gallery = _Images(mine, influence.label, 1.0 / shares, influence.class_size, influence.gallery)
            found.append(_within_classes(gallery, *([queries] if (own < 0).all() else [])))
        else:
            found.append(_within_classes(queries))
    return found


class _Images(NamedTuple):
    """(M,) images: influence, class, weight in the average, images of the class; and how many there are in all."""

    influence: Floats
    label: NDArray[np.int64]
    weight: Floats
    class_size: NDArray[np.int64]
    all: int


def _within_classes(*parts: _Images) -> Spread | None:
    """The variance of a sum over independent images that are drawn anew within their classes.

    Where images or classes are a sample, it is scaled up. A class of one takes the mean variance of the other classes,
    by its weight. Degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946): classes differ in size.
    """
    variance, uncertain, repeats = 0.0, 0.0, 0
    for values, labels, weights, class_sizes, everything in parts:
        _, first, codes, sampled = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
        squares = np.bincount(codes, (values - (np.bincount(codes, values) / sampled)[codes]) ** 2)
        several, weight = sampled > 1, weights[first]
        if (more := int((sampled - 1).sum())) < LEAST_REPEATED:  # of these images: the others say nothing of them
            return None
        repeats += more
        of_class = squares / np.maximum(sampled - 1, 1)
        alike = float((of_class[several] / weight[several] ** 2).mean())
        of_class[~several] = alike * weight[~several] ** 2
        scale = everything / int(class_sizes[first].sum())
        added = scale * class_sizes[first] * of_class
        variance += float(added.sum())
        uncertain += float((added[several] ** 2 / (sampled[several] - 1)).sum())
        uncertain += float(added[~several].sum()) ** 2 / max(1, int(several.sum()) - 1)
    return Spread(variance, max(1.0, variance**2 / uncertain) if uncertain > 0 else float(repeats))


def _over_classes(
    centred: Floats, labels: NDArray[np.int64], influence: Influence | None, name: str, kind: int
) -> Spread | None:
    """The variance where whole classes are drawn: a class's queries, and its images in the others' galleries."""
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < LEAST_CLASSES:
        return None
    total = np.bincount(codes, centred).astype(np.float64)
    if influence is not None:
        there, first, places, sampled = np.unique(
            influence.label, return_index=True, return_inverse=True, return_counts=True
        )
        lost = np.bincount(places, influence.effects[name][kind, 1]) * influence.class_size[first] / sampled
        both, mine, theirs = np.intersect1d(names, there, return_indices=True)
        if len(both) < LEAST_CLASSES:
            return None
        scale = len(names) / len(both)  # not every class was sampled
        total = total[mine] - lost[theirs]
    else:
        scale = 1.0
    count = len(total)
    return Spread(scale * count / (count - 1) * float(np.square(total - total.mean()).sum()), count - 1)


def _wilson(mean: float, spread: Spread, count: int) -> Interval:
    from scipy import stats

    squared = float(stats.t.ppf(0.975, spread.freedom)) ** 2
    # Effects that cancel exactly, as those of a lone miss may, leave a variance of nothing but rounding.
    stands_for = max(0.0, mean * (1 - mean)) / spread.variance if spread.variance > _ROUNDING else 0.0
    n = stands_for if stands_for > 0 else float(count)
    centre = (mean + squared / (2 * n)) / (1 + squared / n)
    half = (squared * (max(0.0, mean * (1 - mean)) / n + squared / (4 * n * n))) ** 0.5 / (1 + squared / n)
    return max(0.0, centre - half), min(1.0, centre + half)
