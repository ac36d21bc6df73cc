"""Two results on the same queries: what is the difference, how sure is it, and who wins where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.scoring.intervals import average
from eval.scoring.significance import p_over_queries
from timm_gam.core import DataError

if TYPE_CHECKING:
    from eval.results.result import RetrievalResult


@dataclass(frozen=True, repr=False)
class Comparison:
    """One metric of result `a` less that of result `b`, paired over the queries that both scored.

    Attributes:
        a: Name of the first.
        b: Name of the second.
        metric: What was compared.
        difference: Mean of the paired differences; metrics are shares in [0, 1].
        interval: Its 95 % bootstrap interval over queries; the weights stay fixed.
        p: Two-sided paired permutation test over queries.
        won: Queries that `a` does better.
        lost: Queries that `b` does better.
        per_query: (Q,) float64 differences; NaN where a query was not scored.
    """

    a: str
    b: str
    metric: str
    difference: float
    interval: tuple[float, float]
    p: float
    won: int
    lost: int
    per_query: NDArray[np.float64]

    @property
    def tied(self) -> int:
        """Queries on which both score the same."""
        return int(np.isfinite(self.per_query).sum()) - self.won - self.lost

    def __repr__(self) -> str:
        low, high = (100 * bound for bound in self.interval)
        return (
            f"Comparison({self.metric}, points: {self.a!r} - {self.b!r} = {100 * self.difference:+.2f} "
            f"[{low:+.2f}, {high:+.2f}], p {self.p:.2g}; {self.won} queries won, {self.lost} lost, {self.tied} tied)"
        )


def compare_results(a: RetrievalResult, b: RetrievalResult, metric: str) -> Comparison:
    """As `RetrievalResult.compare`."""
    check_same_queries(a, b)
    differences = a.metric(metric) - b.metric(metric)
    scored = np.isfinite(differences)
    if not scored.any():
        raise DataError("no query was scored in both results; compare results of the same protocol")
    paired = differences[scored]
    interval = average({metric: paired}, a.query_labels[scored])[metric].micro_interval
    assert interval is not None  # replicates were asked for
    return Comparison(
        a.name,
        b.name,
        metric,
        float(paired.mean()),
        interval,
        p_over_queries(paired),
        int((paired > 0).sum()),
        int((paired < 0).sum()),
        differences,
    )


def check_same_queries(a: RetrievalResult, b: RetrievalResult) -> None:
    """Refuse to pair results whose queries or truth differ.

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
