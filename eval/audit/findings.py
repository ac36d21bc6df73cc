"""What is wrong with a ranking: each check is one function that gives findings, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.audit.judged import judge
from eval.audit.measures import Measure, measure
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing to know about a ranking.

    Attributes:
        check: Short name of the check, such as "self-matches".
        level: "wrong" makes the numbers of the ranking untrustworthy; "note" is to be known.
        text: What was found and what it does to the numbers.
        count: How many queries or rows it concerns.
    """

    check: str
    level: Literal["wrong", "note"]
    text: str
    count: int


def audit_findings(
    ranking: Ranking, qrels: Qrels, ks: Sequence[int], measures: dict[str, Measure], tolerance: float
) -> list[Finding]:
    """Every finding, wrong ones first; the arguments are those of `audit_ranking`, and what it measured."""
    found = [
        *_scores(ranking),
        *_duplicates(ranking),
        *_self_matches(ranking, qrels, ks, measures),
        *_ties(measures, tolerance),
        *_queries(ranking, qrels),
        *_truncation(ranking, qrels, ks, measures),
    ]
    return sorted(found, key=lambda finding: finding.level != "wrong")


def _scores(ranking: Ranking) -> Iterator[Finding]:
    missing = int(np.isnan(ranking.score).sum())
    if missing:
        text = f"{missing} rows have the score NaN, which no order holds; they are left out here"
        yield Finding("scores", "wrong", text, missing)
    if ranking.rank is not None:
        yield from _rising(ranking, ranking.rank)
    span = pd.Series(ranking.score).groupby(ranking.query).agg(["min", "max"])  # past NaN
    constant = int(((span["min"] == span["max"]) & (ranking.depth > 1)).sum())
    if constant:
        text = f"{constant} queries score all their items alike: their order is that of the file, not of the model"
        yield Finding("constant scores", "wrong", text, constant)


def _rising(ranking: Ranking, rank: NDArray[np.int64]) -> Iterator[Finding]:
    order = np.lexsort((rank, ranking.query))
    query, score = ranking.query[order], ranking.score[order]
    rising = query[1:][(query[1:] == query[:-1]) & (score[1:] > score[:-1])]
    if len(rising):
        concerned = len(np.unique(rising))
        text = (
            f"{concerned} queries have scores that rise along the ranks stated, first in "
            f"'{ranking.queries[int(rising[0])]}': readers by rank and readers by score see two rankings; scores "
            "count here"
        )
        yield Finding("rising scores", "wrong", text, concerned)


def _duplicates(ranking: Ranking) -> Iterator[Finding]:
    pairs = ranking.query * len(ranking.items) + ranking.item
    distinct, counts = np.unique(pairs, return_counts=True)
    again = int((counts - 1).sum())
    if again:
        query, item = divmod(int(distinct[np.argmax(counts)]), len(ranking.items))
        text = (
            f"{again} rows rank an item a second time, such as '{ranking.items[item]}' for '{ranking.queries[query]}': "
            "libraries count it twice or keep the last; the best place counts here"
        )
        yield Finding("duplicates", "wrong", text, again)


def _self_matches(ranking: Ranking, qrels: Qrels, ks: Sequence[int], measures: dict[str, Measure]) -> Iterator[Finding]:
    queries, items = np.array(ranking.queries, dtype=object), np.array(ranking.items, dtype=object)
    matched = queries[ranking.query] == items[ranking.item]
    if not matched.any() or qrels.self_matches:
        return
    count = len(np.unique(ranking.query[matched]))
    naive = measure(judge(ranking, qrels, leave_out=False), ks)
    credited = any(qrels.grades.get(q, {}).get(q, 0) > 0 for q in ranking.queries)
    moved = sorted(naive, key=lambda name: -abs(naive[name].mean - measures[name].mean))[:_SHOWN]
    changes = ", ".join(
        f"{name} {100 * naive[name].mean:.2f} with, {100 * measures[name].mean:.2f} without" for name in moved
    )
    elsewhere = count - int((matched & (ranking.place == 0)).sum())
    text = f"{count} queries find themselves ({'judged relevant' if credited else 'judged not relevant'}): {changes}"
    if elsewhere:
        text += f"; {elsewhere} of them not at rank 1, where dropping whatever ranks first drops another item"
    yield Finding("self-matches", "wrong", text, count)


def _ties(measures: dict[str, Measure], tolerance: float) -> Iterator[Finding]:
    moved = {name: one for name, one in measures.items() if one.range > 0}
    worst = sorted(moved.items(), key=lambda item: -item[1].range)[:_SHOWN]
    if worst:
        text = "equal scores leave the order open: " + ", ".join(
            f"{name} {100 * one.least:.2f} to {100 * one.most:.2f}, expected {100 * one.mean:.2f}"
            for name, one in worst
        )
        yield Finding("ties", "wrong" if worst[0][1].range > tolerance else "note", text, len(moved))


def _queries(ranking: Ranking, qrels: Qrels) -> Iterator[Finding]:
    ranked = set(ranking.queries)
    with_relevant = {query for query in qrels.grades if qrels.relevant(query)}
    if missing := sorted(with_relevant - ranked):
        text = (
            f"{len(missing)} of {len(with_relevant)} judged queries are not ranked, such as '{missing[0]}': they count "
            "as 0 here, and libraries that leave them out print more"
        )
        yield Finding("missing queries", "wrong", text, len(missing))
    if unjudged := sorted(ranked - set(qrels.grades)):
        text = f"{len(unjudged)} ranked queries are not judged, such as '{unjudged[0]}'; they count nowhere"
        yield Finding("unjudged queries", "note", text, len(unjudged))
    if without := sorted(set(qrels.grades) - with_relevant):
        text = (
            f"{len(without)} judged queries have no relevant item, such as '{without[0]}': they count nowhere here, "
            "and as 0 where a library averages over all"
        )
        yield Finding("queries without relevant items", "note", text, len(without))


def _truncation(ranking: Ranking, qrels: Qrels, ks: Sequence[int], measures: dict[str, Measure]) -> Iterator[Finding]:
    judged = judge(ranking, qrels)
    depth = np.bincount(judged.query, minlength=len(judged.ranked))[judged.ranked]
    relevant = int(judged.num_relevant[judged.ranked].sum())
    lost = relevant - int((judged.gain > 0).sum())
    if lost:
        most = measure(judged.completed(), ks)
        moved = sorted(most, key=lambda name: measures[name].mean - most[name].mean)[:_SHOWN]
        changes = ", ".join(f"{name} {100 * measures[name].mean:.2f} to {100 * most[name].mean:.2f}" for name in moved)
        text = (
            f"{lost} of {relevant} relevant items are below the depth of the file "
            f"({int(depth.min())} to {int(depth.max())} rows a query) and count as never found; a longer one could "
            f"give {changes}"
        )
        yield Finding("truncation", "note", text, lost)
    short = int((depth < max(ks)).sum())
    if short:
        whole = int(depth.min()) >= len(ranking.items) - 1
        text = (
            f"{short} queries rank fewer than {max(ks)} items, at least {int(depth.min())}: precision@K divides by K "
            "all the same" + ("" if whole else ", so it is too low there; give a longer ranking or a smaller -k")
        )
        yield Finding("cutoffs beyond the depth", "note" if whole else "wrong", text, short)
