"""A ranking and judgements -> all that is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.audit.conventions import Convention, conventions
from eval.audit.findings import Finding, audit_findings
from eval.audit.judged import judge
from eval.audit.measures import Measure, measure, per_query
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels
from eval.scoring.statistics.intervals import average


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        name: Of the ranking.
        queries: Judged queries with a relevant item; all of them count.
        ranked: How many of them the ranking has.
        rows: Rows of the ranking.
        findings: What is wrong or to be known, wrong ones first.
        measures: Metric name -> our value and its range over ties.
        intervals: Metric name -> 95 % interval for other queries; None where there are too few.
        conventions: What other libraries print.
    """

    name: str
    queries: int
    ranked: int
    rows: int
    findings: list[Finding]
    measures: dict[str, Measure]
    intervals: dict[str, tuple[float, float] | None]
    conventions: list[Convention]

    @property
    def wrong(self) -> list[Finding]:
        """The findings that make the numbers untrustworthy."""
        return [finding for finding in self.findings if finding.level == "wrong"]


def audit_ranking(
    ranking: Ranking,
    qrels: Qrels,
    *,
    ks: Sequence[int] = (1, 5, 10),
    tolerance: float = 0.001,
) -> Audit:
    """Look at a ranking: what is wrong with it, its metrics with ranges and intervals, and what others would print.

    Args:
        ranking: From `read_ranking`, or `Ranking.from_mapping`.
        qrels: From `read_qrels`, or `Qrels`.
        ks: Cutoffs, each >= 1.
        tolerance: Range of a metric over the orders of ties, in [0, 1], above which ties are wrong.

    Raises:
        DataError: the ranking has none of the judged queries.

    Example:
        >>> run = Ranking.from_mapping("run", {"q": {"q": 3.0, "a": 2.0, "b": 1.0}})
        >>> [finding.check for finding in audit_ranking(run, Qrels({"q": {"a": 1}}), ks=[1]).wrong]
        ['self-matches']
    """
    judged = judge(ranking, qrels)
    measures = measure(judged, ks)
    one_class = np.zeros(len(judged.ranked), dtype=np.int64)  # judgements know no classes
    averages = average(per_query(judged, ks), one_class)
    return Audit(
        name=ranking.name,
        queries=len(judged.ranked),
        ranked=int(judged.ranked.sum()),
        rows=len(ranking.query),
        findings=audit_findings(ranking, qrels, ks, measures, tolerance),
        measures=measures,
        intervals={name: one.micro_interval for name, one in averages.items()},
        conventions=conventions(ranking, qrels, max(ks)),
    )
