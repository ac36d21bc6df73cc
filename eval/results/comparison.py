"""Two results on the same queries: what is the difference, how sure is it, and who wins where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.results.result import RetrievalResult
from eval.scoring.statistics.influence import Influence
from eval.scoring.statistics.intervals import Population, difference
from eval.scoring.statistics.significance import p_of_pairs
from timm_gam.core import DataError


@dataclass(frozen=True, repr=False)
class Comparison:
    """One metric of result `a` less that of result `b`, paired over the queries that both scored.

    Attributes:
        a: Name of the first.
        b: Name of the second.
        metric: What was compared.
        difference: Mean of the paired differences; metrics are shares in [0, 1].
        interval: Its 95 % interval for other queries, images or classes; None where the data are too few.
        p: Two-sided: for queries a paired permutation test, for images and classes Student's t, which agrees with the
            interval; for images of which there are too few, the permutation test.
        population: What interval and p are for, that of both results, else "queries".
        won: Queries that `a` does better.
        lost: Queries that `b` does better.
        per_query: (Q,) float64 differences; NaN where a query was not scored.
    """

    a: str
    b: str
    metric: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    population: Population
    won: int
    lost: int
    per_query: NDArray[np.float64]

    @property
    def tied(self) -> int:
        """Queries on which both score the same."""
        return int(np.isfinite(self.per_query).sum()) - self.won - self.lost

    def __repr__(self) -> str:
        low, high = (100 * bound for bound in self.interval or (math.nan, math.nan))
        answer = f"p {self.p:.2g}; {self.won} queries won, {self.lost} lost, {self.tied} tied"
        return (
            f"Comparison({self.metric}, points: {self.a!r} - {self.b!r} = {100 * self.difference:+.2f} "
            f"[{low:+.2f}, {high:+.2f}] for other {self.population}, {answer})"
        )


def compare_metrics(a: RetrievalResult, b: RetrievalResult, metrics: Sequence[str]) -> dict[str, Comparison]:
    """`RetrievalResult.compare` by several metrics, in the time of few."""
    check_same_queries(a, b)
    differences = np.stack([a.metric(metric) - b.metric(metric) for metric in metrics], axis=1)
    scored = np.isfinite(differences).all(axis=1)
    if not scored.any():
        raise DataError("no query was scored in both results; compare results of the same protocol")
    population, both = _population(a, b)
    found, by_permutation = {}, p_of_pairs(differences[scored])
    for column, metric, permuted in zip(differences.T, metrics, by_permutation, strict=True):
        mean, interval, p = difference(metric, column, a.query_labels, population=population, influences=both)
        found[metric] = Comparison(
            a.name,
            b.name,
            metric,
            mean,
            interval,
            permuted if population == "queries" or p is None else p,
            population,
            int((column[scored] > 0).sum()),
            int((column[scored] < 0).sum()),
            column,
        )
    return found


def _population(a: RetrievalResult, b: RetrievalResult) -> tuple[Population, tuple[Influence, Influence] | None]:
    """What both results' intervals are for, and what their gallery images do where both know it; else queries."""
    mine, one, other = a.facts.intervals.population, a.influence, b.influence
    if mine != b.facts.intervals.population or mine == "none" or mine == "queries" or one is None or other is None:
        return "queries", None
    return (mine, (one, other)) if np.array_equal(one.image, other.image) else ("queries", None)


def check_same_queries(a: RetrievalResult, b: RetrievalResult) -> None:
    """Refuse to pair results whose queries, galleries or truth differ.

    Raises:
        DataError: they do; the message says in what.
    """
    advice = "compare results of the same images, classes and protocol"
    if len(a.query) != len(b.query):
        raise DataError(f"{a.name} has {len(a.query)} queries and {b.name} {len(b.query)}; {advice}")
    for place, (mine, theirs) in enumerate(zip(a.query.tolist(), b.query.tolist(), strict=True)):
        if a.ids[mine] != b.ids[theirs]:
            raise DataError(f"query {place} is '{a.ids[mine]}' of {a.name} and '{b.ids[theirs]}' of {b.name}; {advice}")
        if a.class_names[a.labels[mine]] != b.class_names[b.labels[theirs]]:
            raise DataError(f"query '{a.ids[mine]}' has another class in {b.name} than in {a.name}; {advice}")
    mine, theirs = ({r.ids[row]: r.class_names[r.labels[row]] for row in r.gallery.tolist()} for r in (a, b))
    if mine != theirs:
        item = min(mine.items() ^ theirs.items())[0]
        raise DataError(
            f"{a.name} ranked {len(mine)} images and {b.name} {len(theirs)}: not in both, or of another class, is "
            f"'{item}'; {advice}"
        )
