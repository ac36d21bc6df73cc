"""The same ranking in the numbers that other libraries print: one name, several denominators.

Each entry says which library, the name it prints, what it divides by, and what becomes of ties and of the query itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval.audit.judged import Judged, judge
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels

Floats = NDArray[np.float64]
_WHOLE = np.iinfo(np.int64).max  # a cutoff past every ranking


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
    """The numbers of a ranking under the rules of other libraries, those with a cutoff at k."""
    trec_order = _ranked_only(judge(ranking, qrels, leave_out=False, by_item=True))
    with_self = judge(ranking, qrels, leave_out=False)
    own = judge(ranking, qrels)
    trec, skipped, excluded = (
        _Hits(each) for each in (trec_order, _ranked_only(with_self.take(with_self.place > 0)), own)
    )
    keeps = "ties by item id, descending; the query itself stays; judged queries that are ranked"
    pml, revisited = "pytorch-metric-learning", "revisited Oxford and Paris"
    dropped = "whatever ranks first is dropped, be it the query or not"
    at_ends = "of the first 1000, precision at the end of each tie, divided by min(1000, R)"
    by_found = "divided by the relevant items that were found, not by R"
    relevant = excluded.num_relevant
    rows = [
        ("trec_eval, ranx, MTEB", "map", f"(1/R) sum rel(i) P@i; {keeps}", trec.ap()),
        ("trec_eval, MTEB", f"map_cut_{k}", "the same of the first K, divided by R", trec.ap(k)),
        ("trec_eval, MTEB", f"P_{k}", "hits / K", trec.found(k) / k),
        ("trec_eval, MTEB", f"recall_{k}", "hits / R", trec.found(k) / trec.num_relevant),
        ("trec_eval (success), MTEB (hit_rate)", f"success_{k}", "1 if any of the first K", trec.found(k) > 0),
        ("trec_eval, MTEB", f"ndcg_cut_{k}", "graded DCG / ideal DCG, linear gains", _ndcg(trec_order, k)),
        ("trec_eval, MTEB (mrr)", "recip_rank", "1 / rank of the first relevant", trec.reciprocal()),
        ("MTEB, skip_first_result", f"map_cut_{k}", dropped, skipped.ap(k)),
        ("ILIAS", "mAP@1000", at_ends, _ap_by_threshold(own, 1000) / np.minimum(1000, relevant)),
        (revisited, "mAP", "trapezoids of the PR curve, divided by R", excluded.trapezoids()),
        (revisited, f"mP@{k}", "hits / min(K, rank of the last relevant)", excluded.precision_to_last(k)),
        (pml, "mean_average_precision_at_r", "(1/R) sum over the first R", excluded.ap(relevant)),
        (pml, "r_precision", "hits in the first R / R", excluded.found(relevant) / relevant),
        (
            "torchmetrics RetrievalMAP and others",
            "map",
            by_found,
            _divide(excluded.ap() * relevant, excluded.found(_WHOLE)),
        ),
    ]
    return [
        Convention(library, name, text, float(np.mean(np.asarray(values, dtype=np.float64))))
        for library, name, text, values in rows
    ]


def _ranked_only(judged: Judged) -> Judged:
    """Without judged queries that are not ranked, which trec_eval leaves out of its averages."""
    kept = judged.ranked
    return replace(
        judged,
        queries=tuple(np.array(judged.queries, dtype=object)[kept]),
        query=(np.cumsum(kept) - 1)[judged.query],
        ideal=judged.ideal[kept],
        num_relevant=judged.num_relevant[kept],
        ranked=kept[kept],
    )


class _Hits:
    """The relevant rows: their query, rank from 0, and how many relevant rows stand before each."""

    def __init__(self, judged: Judged) -> None:
        rows = np.flatnonzero(judged.gain > 0)
        self.query, self.place = judged.query[rows], judged.place[rows]
        self.before = np.arange(len(rows)) - np.searchsorted(self.query, self.query)
        self.num_relevant = judged.num_relevant

    def total(self, values: Floats | NDArray[np.bool_]) -> Floats:
        """Sum over the hits of each query."""
        return np.bincount(self.query, weights=values, minlength=len(self.num_relevant)).astype(np.float64)

    def found(self, k: int | NDArray[np.int64]) -> Floats:
        """Hits in the first k ranks, one k for all or one for each query."""
        return self.total(self.place < np.broadcast_to(k, self.num_relevant.shape)[self.query])

    def ap(self, k: int | NDArray[np.int64] = _WHOLE) -> Floats:
        """Precision at each hit within the first k ranks, summed and divided by R."""
        within = self.place < np.broadcast_to(k, self.num_relevant.shape)[self.query]
        return self.total(np.where(within, (self.before + 1) / (self.place + 1), 0.0)) / self.num_relevant

    def reciprocal(self) -> Floats:
        """1 / rank of the first hit."""
        return self.total(np.where(self.before == 0, 1.0 / (self.place + 1), 0.0))

    def trapezoids(self) -> Floats:
        """Area below precision over recall, joined by straight lines."""
        before = np.where(self.place == 0, 1.0, self.before / np.maximum(self.place, 1))
        return self.total((before + (self.before + 1) / (self.place + 1)) / 2) / self.num_relevant

    def precision_to_last(self, k: int) -> Floats:
        """Hits over ranks, up to the last hit where it stands before k."""
        last = np.zeros(len(self.num_relevant), dtype=np.int64)
        np.maximum.at(last, self.query, self.place + 1)
        limit = np.minimum(last, k)
        return _divide(self.found(limit), limit)


def _ndcg(judged: Judged, k: int) -> Floats:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    kept = judged.cut(k)
    found = np.bincount(kept.query, kept.gain * discounts[kept.place], len(kept.queries)).astype(np.float64)
    width = min(k, judged.ideal.shape[1])
    return _divide(found, judged.ideal[:, :width] @ discounts[:width])


def _ap_by_threshold(judged: Judged, k: int) -> Floats:
    """sum over relevant of precision at the last place of their tie (scikit-learn's average_precision_score)."""
    groups = judged.cut(k).groups()
    at_end = (groups.relevant_before + groups.relevant).double() / (groups.start + groups.size)
    summed: Floats = groups.total(groups.relevant * at_end).numpy()
    return summed


def _divide(numerator: Floats, denominator: Floats | NDArray[np.int64]) -> Floats:
    """0 where there is nothing to divide by."""
    out = np.zeros(len(numerator))
    np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
    return out
