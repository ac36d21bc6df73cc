"""The same ranking in the numbers that other libraries print: one name, several denominators.

Each entry says which library, the name it prints, what it divides by, and what becomes of ties and of the query itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.audit.judged import Judged, judge
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Convention:
    """One number as a library prints it.

    Attributes:
        library: Whose.
        name: The name it prints.
        definition: What it is, with its denominator.
        value: In [0, 1].
    """

    library: str
    name: str
    definition: str
    value: float


def conventions(ranking: Ranking, qrels: Qrels, k: int = 10) -> list[Convention]:
    """The numbers of a ranking under the rules of other libraries.

    Args:
        ranking: From `read_ranking`.
        qrels: From `read_qrels`.
        k: Cutoff of the metrics that have one.
    """
    trec = _ranked_only(judge(ranking, qrels, leave_out=False, by_item=True))
    skipped = _ranked_only(_without_first(judge(ranking, qrels, leave_out=False)))
    excluded = judge(ranking, qrels)
    keeps = "ties by item id, descending; the query itself stays; judged queries that are ranked"
    rows = [
        ("trec_eval, ranx, MTEB", "map", f"(1/R) sum rel(i) P@i; {keeps}", _ap(trec)),
        ("trec_eval, MTEB", f"map_cut_{k}", "the same of the first K, divided by R", _ap(trec, k)),
        ("trec_eval, MTEB", f"P_{k}", "hits / K", _hits(trec, k) / k),
        ("trec_eval, MTEB", f"recall_{k}", "hits / R", _hits(trec, k) / trec.num_relevant),
        ("trec_eval (success), MTEB (hit_rate)", f"success_{k}", "1 if any of the first K", _hits(trec, k) > 0),
        ("trec_eval, MTEB", f"ndcg_cut_{k}", "graded DCG / ideal DCG, linear gains", _ndcg(trec, k)),
        ("trec_eval, MTEB (mrr)", "recip_rank", "1 / rank of the first relevant", _reciprocal(trec)),
        (
            "MTEB, skip_first_result",
            f"map_cut_{k}",
            "whatever ranks first is dropped, be it the query or not",
            _ap(skipped, k),
        ),
        (
            "ILIAS",
            "mAP@1000",
            "of the first 1000, precision at the end of each tie, divided by min(1000, R)",
            _ap_by_threshold(excluded, 1000) / np.minimum(1000, excluded.num_relevant),
        ),
        ("revisited Oxford and Paris", "mAP", "trapezoids of the PR curve, divided by R", _trapezoids(excluded)),
        (
            "revisited Oxford and Paris",
            f"mP@{k}",
            "hits / min(K, rank of the last relevant)",
            _precision_to_last(excluded, k),
        ),
        (
            "pytorch-metric-learning",
            "mean_average_precision_at_r",
            "(1/R) sum over the first R",
            _ap(excluded, excluded.num_relevant),
        ),
        (
            "pytorch-metric-learning",
            "r_precision",
            "hits in the first R / R",
            _hits(excluded, excluded.num_relevant) / excluded.num_relevant,
        ),
        (
            "torchmetrics RetrievalMAP and others",
            "map",
            "divided by the relevant items that were found, not by R",
            _divide(_ap(excluded) * excluded.num_relevant, _hits(excluded, len(excluded.query))),
        ),
    ]
    return [
        Convention(library, name, text, float(np.mean(np.asarray(values, dtype=np.float64))))
        for library, name, text, values in rows
    ]


def _ranked_only(judged: Judged) -> Judged:
    """Without judged queries that are not ranked, which trec_eval leaves out of its averages."""
    number = np.cumsum(judged.ranked) - 1
    return Judged(
        tuple(name for name, kept in zip(judged.queries, judged.ranked, strict=True) if kept),
        number[judged.query],
        judged.score,
        judged.gain,
        judged.ideal[judged.ranked],
        judged.num_relevant[judged.ranked],
        np.ones(int(judged.ranked.sum()), dtype=np.bool_),
    )


def _without_first(judged: Judged) -> Judged:
    kept = judged.place > 0
    return Judged(
        judged.queries,
        judged.query[kept],
        judged.score[kept],
        judged.gain[kept],
        judged.ideal,
        judged.num_relevant,
        judged.ranked,
    )


@dataclass(frozen=True)
class _Hits:
    """The relevant rows: their query, rank from 0, and how many relevant rows stand before each."""

    query: NDArray[np.int64]
    place: NDArray[np.int64]
    before: NDArray[np.int64]


def _relevant(judged: Judged) -> _Hits:
    rows = np.flatnonzero(judged.gain > 0)
    query = judged.query[rows]
    return _Hits(query, judged.place[rows], np.arange(len(rows)) - np.searchsorted(query, query))


def _total(judged: Judged, query: NDArray[np.int64], values: Floats) -> Floats:
    return np.bincount(query, weights=values, minlength=len(judged.queries)).astype(np.float64)


def _limit(hits: _Hits, k: int | NDArray[np.int64] | None) -> NDArray[np.bool_]:
    if k is None:
        return np.ones(len(hits.query), dtype=np.bool_)
    return hits.place < (k if isinstance(k, int) else k[hits.query])


def _hits(judged: Judged, k: int | NDArray[np.int64]) -> Floats:
    hits = _relevant(judged)
    return _total(judged, hits.query, _limit(hits, k).astype(np.float64))


def _ap(judged: Judged, k: int | NDArray[np.int64] | None = None) -> Floats:
    hits = _relevant(judged)
    precision = np.where(_limit(hits, k), (hits.before + 1) / (hits.place + 1), 0.0)
    return _total(judged, hits.query, precision) / judged.num_relevant


def _ndcg(judged: Judged, k: int) -> Floats:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    rows = (judged.place < k) & (judged.gain > 0)
    found = _total(judged, judged.query[rows], judged.gain[rows] * discounts[judged.place[rows]])
    width = min(k, judged.ideal.shape[1])
    return _divide(found, judged.ideal[:, :width] @ discounts[:width])


def _reciprocal(judged: Judged) -> Floats:
    hits = _relevant(judged)
    return _total(judged, hits.query, np.where(hits.before == 0, 1.0 / (hits.place + 1), 0.0))


def _ap_by_threshold(judged: Judged, k: int) -> Floats:
    """sum over relevant of precision at the last place of their tie (scikit-learn's average_precision_score)."""
    groups = judged.cut(k).groups()
    at_end = (groups.relevant_before + groups.relevant).double() / (groups.start + groups.size)
    summed: Floats = groups.total(groups.relevant * at_end).numpy()
    return summed


def _trapezoids(judged: Judged) -> Floats:
    hits = _relevant(judged)
    before = np.where(hits.place == 0, 1.0, hits.before / np.maximum(hits.place, 1))
    return _total(judged, hits.query, (before + (hits.before + 1) / (hits.place + 1)) / 2) / judged.num_relevant


def _precision_to_last(judged: Judged, k: int) -> Floats:
    hits = _relevant(judged)
    last = np.zeros(len(judged.queries), dtype=np.int64)
    np.maximum.at(last, hits.query, hits.place + 1)
    limit = np.minimum(last, k)
    return _divide(_total(judged, hits.query, (hits.place < limit[hits.query]).astype(np.float64)), limit)


def _divide(numerator: Floats, denominator: Floats | NDArray[np.int64]) -> Floats:
    """0 where there is nothing to divide by."""
    out = np.zeros(len(numerator))
    np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
    return out
