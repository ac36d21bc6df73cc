"""Rankings -> metrics of each query, every one with its formula, denominator and source.

Notation: R relevant images in the query's gallery, rel(i) = 1 if the image at rank i is relevant, else 0.
Images with equal scores have no order of their own. A metric here is its expectation over all orders of each tied
group, each equally likely (McSherry and Najork, "Computing Information Retrieval Performance Measures
Efficiently in the Presence of Tied Scores", ECIR 2008), so no result depends on the order of files.

A query without relevant images (the only image of its class) has no defined metric: NaN, left out of every
average and counted. A cutoff K beyond the gallery is legal: ranks past its end hold nothing relevant, and
precision@K still divides by K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.scoring.ranking import RelevantRanks

Floats = NDArray[np.float64]

DEFAULT_KS = (1, 5, 10, 12, 20)
"""Cutoffs reported by default: 1 and 10 (the paper), 12 and 20 (other COREL papers), 5."""


@dataclass(frozen=True)
class TieGroups:
    """The tied groups that hold relevant images, for Q queries: G groups in rank order within each query.

    Attributes:
        num_relevant: (Q,) int64, R of each query.
        row: (G,) int64 in [0, Q), the query of each group.
        start: (G,) int64, images ranked strictly above the group.
        size: (G,) int64 >= 1, images in the group.
        relevant: (G,) int64 in [1, size], relevant images in it.
        relevant_before: (G,) int64, relevant images ranked strictly above it.
    """

    num_relevant: NDArray[np.int64]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    relevant: NDArray[np.int64]
    relevant_before: NDArray[np.int64]

    @classmethod
    def of(cls, ranks: RelevantRanks) -> TieGroups:
        """Group the (query, relevant image) pairs of `ranks` that share a score."""
        order = np.argsort(ranks.row * (1 + ranks.above.max(initial=0)) + ranks.above, kind="stable")  # mostly in order
        row, above, tied = ranks.row[order], ranks.above[order], ranks.tied[order]
        opens = np.ones(len(row), dtype=np.bool_)
        opens[1:] = (row[1:] != row[:-1]) | (above[1:] != above[:-1])
        heads = np.flatnonzero(opens)
        relevant = np.diff(np.append(heads, len(row)))
        num_relevant = np.bincount(row, minlength=len(ranks.query))
        pairs_before_query = np.concatenate(([0], np.cumsum(num_relevant)))[row[heads]]
        return cls(num_relevant, row[heads], above[heads], tied[heads], relevant, heads - pairs_before_query)

    def reaching(self, cutoff: int) -> TieGroups:
        """Without the groups past the first `cutoff` ranks that say nothing about them: all but each query's first."""
        kept = np.flatnonzero((self.start < cutoff) | (self.relevant_before == 0))
        per_group = (self.row, self.start, self.size, self.relevant, self.relevant_before)
        return TieGroups(self.num_relevant, *(values[kept] for values in per_group))

    def total(self, per_group: Floats) -> Floats:
        """Sum a (G,) quantity over the groups of each query -> (Q,)."""
        return np.bincount(self.row, weights=per_group, minlength=len(self.num_relevant)).astype(np.float64)

    def per_relevant(self, totals: Floats) -> Floats:
        """Divide (Q,) totals by R; NaN where a query has no relevant image."""
        return _divide(totals, self.num_relevant)

    def within(self, cutoff: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """(G,) ranks of each group that lie within the first `cutoff` (one for all, or (Q,) per query)."""
        limit = cutoff if isinstance(cutoff, int) else cutoff[self.row]
        return np.clip(limit - self.start, 0, self.size)

    def expected_relevant(self, cutoff: int | NDArray[np.int64]) -> Floats:
        """(Q,) expected number of relevant images within the first `cutoff` ranks."""
        return self.total(self.relevant * self.within(cutoff) / self.size)


def precision_at_k(groups: TieGroups, k: int) -> Floats:
    """precision@K = (1/K) sum_{i<=K} rel(i). Always divided by K, also where R or the gallery is smaller.

    Source: Manning, Raghavan, Schuetze, Introduction to Information Retrieval (2008), section 8.4; the formula
    printed in Tang, Jiang, Yang (2023), whose Top-10 column nevertheless is `hit_at_k`.

    Returns:
        (Q,) in [0, 1].
    """
    return np.where(groups.num_relevant > 0, groups.expected_relevant(k) / k, np.nan)


def recall_at_k(groups: TieGroups, k: int) -> Floats:
    """recall@K = (1/R) sum_{i<=K} rel(i): the share of all relevant images found in the first K.

    Source: Manning, Raghavan, Schuetze (2008), section 8.3. Metric learning often calls `hit_at_k` "Recall@K".

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.expected_relevant(k))


def hit_at_k(groups: TieGroups, k: int) -> Floats:
    """hit@K = 1 if at least one of the first K images is relevant, else 0; with ties, that event's probability.

    The paper's Top-K ("as long as one of the first K images has the query's label"); "Recall@K" in Jegou,
    Douze, Schmid (TPAMI 2011) and Oh Song et al. (CVPR 2016), "CMC" in re-identification.

    Returns:
        (Q,) in [0, 1].
    """
    first = groups.relevant_before == 0
    size, relevant, within = groups.size[first], groups.relevant[first], groups.within(k)[first]
    # A group of n with r relevant fills t ranks: P(miss) = C(n-r, t) / C(n, t) = prod_{i<t} (n-r-i) / (n-i).
    miss = np.ones(len(size))
    for i in range(min(k, int(within.max(initial=0)))):
        factor = np.maximum(size - relevant - i, 0) / np.maximum(size - i, 1)
        miss *= np.where(i < within, factor, 1.0)
    out = np.where(groups.num_relevant > 0, 0.0, np.nan)  # 0 where the ranking holds none of the relevant images
    out[groups.row[first]] = 1.0 - miss
    return out


def average_precision(groups: TieGroups) -> Floats:
    """AP = (1/R) sum_i rel(i) precision@i over the whole ranking; its mean over queries is mAP.

    Non-interpolated, divided by R. Source: Buckley and Voorhees, "Evaluating evaluation measure stability"
    (SIGIR 2000); expectation over ties: McSherry and Najork (2008), equation for AP.

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.total(_precision_sums(groups, groups.size)))


def average_precision_at_k(groups: TieGroups, k: int) -> Floats:
    """AP@K = (1/R) sum_{i<=K} rel(i) precision@i: the ranking cut at K, still divided by R (trec_eval's map_cut).

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.total(_precision_sums(groups, groups.within(k))))


def average_precision_at_r(groups: TieGroups) -> Floats:
    """AP@R = (1/R) sum_{i<=R} rel(i) precision@i: the ranking cut at R; its mean over queries is mAP@R.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check" (ECCV 2020), section 3.2.

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.total(_precision_sums(groups, groups.within(groups.num_relevant))))


def r_precision(groups: TieGroups) -> Floats:
    """R-precision = (1/R) sum_{i<=R} rel(i). Source: Manning, Raghavan, Schuetze (2008), section 8.4.

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.expected_relevant(groups.num_relevant))


def reciprocal_rank(groups: TieGroups) -> Floats:
    """RR = 1 / rank of the first relevant image; its mean over queries is MRR.

    Source: Voorhees, "The TREC-8 Question Answering Track Report" (1999).

    Returns:
        (Q,) in (0, 1].
    """
    first = np.flatnonzero(groups.relevant_before == 0)
    value = 1.0 / (groups.start[first] + 1.0)
    for i in np.flatnonzero(groups.relevant[first] < groups.size[first]):
        group = first[i]
        value[i] = _mean_reciprocal_first(*(int(x[group]) for x in (groups.start, groups.size, groups.relevant)))
    out = np.where(groups.num_relevant > 0, 0.0, np.nan)
    out[groups.row[first]] = value
    return out


def ndcg_at_k(groups: TieGroups, k: int) -> Floats:
    """nDCG@K = DCG@K / IDCG@K, DCG@K = sum_{i<=K} rel(i) / log2(i + 1), IDCG@K = the same with min(R, K) hits first.

    Source: Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques" (TOIS 2002), binary gains.

    Returns:
        (Q,) in [0, 1].
    """
    discounts = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))))
    start = np.minimum(groups.start, k)
    per_group = groups.relevant / groups.size * (discounts[start + groups.within(k)] - discounts[start])
    return _divide(groups.total(per_group), discounts[np.minimum(groups.num_relevant, k)])


def graded_ndcg_at_k(groups: TieGroups, gains: Floats, ideal: Floats, k: int) -> Floats:
    """nDCG@K with graded relevance: DCG@K = sum_{i<=K} grade(i) / log2(i + 1), divided by that of the best order.

    Source: Jarvelin and Kekalainen (TOIS 2002), linear gains as trec_eval's ndcg_cut; ties: as above.

    Args:
        groups: The tied groups that hold relevant images.
        gains: (G,) summed grades of each group.
        ideal: (Q, most relevant) grades of each query's relevant images, descending, 0 where there are fewer.
        k: Cutoff, >= 1.

    Returns:
        (Q,) in [0, 1].
    """
    discounts = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))))
    start = np.minimum(groups.start, k)
    per_group = gains / groups.size * (discounts[start + groups.within(k)] - discounts[start])
    width = min(k, ideal.shape[1])
    return _divide(groups.total(per_group), ideal[:, :width] @ np.diff(discounts)[:width])


_AT_K: dict[str, Callable[[TieGroups, int], Floats]] = {
    "precision": precision_at_k,
    "hit": hit_at_k,
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
}
_WHOLE: dict[str, Callable[[TieGroups], Floats]] = {
    "map": average_precision,
    "map@r": average_precision_at_r,
    "r_precision": r_precision,
    "mrr": reciprocal_rank,
}

DEFINITIONS = {
    "precision@K": "(1/K) sum_{i<=K} rel(i), always divided by K",
    "hit@K": "1 if any of the first K is relevant (the paper's Top-K; Recall@K in metric learning)",
    "recall@K": "(1/R) sum_{i<=K} rel(i)",
    "ndcg@K": "DCG@K / ideal DCG@K, binary gains, log2(i + 1) discount",
    "map": "mean of (1/R) sum_i rel(i) precision@i over the whole ranking",
    "map@r": "mean of (1/R) sum_{i<=R} rel(i) precision@i",
    "r_precision": "(1/R) sum_{i<=R} rel(i)",
    "mrr": "mean of 1 / rank of the first relevant image",
}
"""One line per metric for every output: the same name means different things in different libraries."""


def metric_names(ks: Sequence[int] = DEFAULT_KS) -> list[str]:
    """The names `query_metrics` returns, in its order: "precision@1", ..., "map", "map@r", "r_precision", "mrr"."""
    return [f"{name}@{k}" for name in _AT_K for k in ks] + list(_WHOLE)


def query_metrics(ranks: RelevantRanks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Floats]:
    """Every metric of every query in `ranks`.

    Args:
        ranks: A block of queries from `eval.scoring.ranking.rank_relevant`.
        ks: Cutoffs, each >= 1.

    Returns:
        Metric name -> (Q,) float64 in [0, 1]; NaN for queries without relevant images.
    """
    groups = TieGroups.of(ranks)
    first = groups.reaching(max(ks, default=0))
    at_k = {f"{name}@{k}": metric(first, k) for name, metric in _AT_K.items() for k in ks}
    return at_k | {name: metric(groups) for name, metric in _WHOLE.items()}


def _precision_sums(groups: TieGroups, within: NDArray[np.int64]) -> Floats:
    """(G,) expected sum of precision@i over the relevant images in the first `within` ranks of each group.

    Rank start + j of a group of n with r relevant is relevant with probability r/n, and then r' + 1 + (j-1)(r-1)/(n-1)
    relevant images are expected up to it, r' of them above the group. Summed over j with harmonic numbers H.
    """
    start, size, relevant = groups.start, groups.size, groups.relevant
    end = start + within
    harmonic = np.concatenate(([0.0], np.cumsum(1.0 / np.arange(1, int(end.max(initial=0)) + 1))))
    single = size == 1
    # The difference of two H loses digits where it is a single term.
    inverse_ranks = np.where(single, within / (start + 1.0), harmonic[end] - harmonic[start])
    steps = np.where(single, 0.0, (relevant - 1) / np.maximum(size - 1, 1))
    linear = within - (start + 1) * inverse_ranks  # sum over j of (j-1) / (start+j)
    sums: Floats = relevant / size * ((groups.relevant_before + 1) * inverse_ranks + steps * linear)
    return sums


def _mean_reciprocal_first(start: int, size: int, relevant: int) -> float:
    """E[1 / (start + j)], j the place of the first of `relevant` images in a random order of `size`."""
    j = np.arange(1, size - relevant + 2)
    none_yet = np.concatenate(([1.0], np.cumprod((size - relevant - j[:-1] + 1) / (size - j[:-1] + 1))))
    return float(np.sum(none_yet * relevant / (size - j + 1) / (start + j)))


def _divide(numerator: Floats, denominator: NDArray[np.int64] | Floats) -> Floats:
    out = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=np.asarray(denominator > 0))
    return out
