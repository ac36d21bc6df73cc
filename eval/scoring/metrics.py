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

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.ranking import RelevantRanks
from eval.scoring.tie_groups import TieGroups, quotient

DEFAULT_KS = (1, 5, 10, 12, 20)
"""Cutoffs reported by default: 1 and 10 (the paper), 12 and 20 (other COREL papers), 5."""


def precision_at_k(groups: TieGroups, k: int) -> Tensor:
    """precision@K = (1/K) sum_{i<=K} rel(i). Always divided by K, also where R or the gallery is smaller.

    Source: Manning, Raghavan, Schuetze, Introduction to Information Retrieval (2008), section 8.4; the formula
    printed in Tang, Jiang, Yang (2023), whose Top-10 column nevertheless is `hit_at_k`.

    Returns:
        (Q,) in [0, 1].
    """
    return quotient(groups.expected_relevant(k), torch.where(groups.num_relevant > 0, k, 0))


def recall_at_k(groups: TieGroups, k: int) -> Tensor:
    """recall@K = (1/R) sum_{i<=K} rel(i): the share of all relevant images found in the first K.

    Source: Manning, Raghavan, Schuetze (2008), section 8.3. Metric learning often calls `hit_at_k` "Recall@K".

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.expected_relevant(k))


def hit_at_k(groups: TieGroups, k: int) -> Tensor:
    """hit@K = 1 if at least one of the first K images is relevant, else 0; with ties, that event's probability.

    The paper's Top-K ("as long as one of the first K images has the query's label"); "Recall@K" in Jegou,
    Douze, Schmid (TPAMI 2011) and Oh Song et al. (CVPR 2016), "CMC" in re-identification.

    Returns:
        (Q,) in [0, 1].
    """
    first = groups.first
    size, relevant, within = first.size, first.relevant, first.within(k)
    # A group of n with r relevant fills t ranks: P(miss) = C(n-r, t) / C(n, t) = prod_{i<t} (n-r-i) / (n-i).
    miss = torch.ones(len(size), dtype=torch.float64, device=size.device)
    for i in range(min(k, int(within.max()) if len(within) else 0)):
        factor = (size - relevant - i).clamp(min=0).double() / (size - i).clamp(min=1)
        miss *= torch.where(i < within, factor, 1.0)
    return _of_first(first, 1.0 - miss)


def average_precision(groups: TieGroups) -> Tensor:
    """AP = (1/R) sum_i rel(i) precision@i over the whole ranking; its mean over queries is mAP.

    Non-interpolated, divided by R. Source: Buckley and Voorhees, "Evaluating evaluation measure stability"
    (SIGIR 2000); expectation over ties: McSherry and Najork (2008), equation for AP.

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.total(_precision_sums(groups, groups.size)))


def average_precision_at_k(groups: TieGroups, k: int) -> Tensor:
    """AP@K = (1/R) sum_{i<=K} rel(i) precision@i: the ranking cut at K, still divided by R (trec_eval's map_cut).

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.total(_precision_sums(groups, groups.within(k))))


def average_precision_at_r(groups: TieGroups) -> Tensor:
    """AP@R = (1/R) sum_{i<=R} rel(i) precision@i: the ranking cut at R; its mean over queries is mAP@R.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check" (ECCV 2020), section 3.2.

    Returns:
        (Q,) in [0, 1].
    """
    near = groups.near
    return near.per_relevant(near.total(_precision_sums(near, near.within(near.num_relevant))))


def r_precision(groups: TieGroups) -> Tensor:
    """R-precision = (1/R) sum_{i<=R} rel(i). Source: Manning, Raghavan, Schuetze (2008), section 8.4.

    Returns:
        (Q,) in [0, 1].
    """
    return groups.per_relevant(groups.near.expected_relevant(groups.num_relevant))


def reciprocal_rank(groups: TieGroups) -> Tensor:
    """RR = 1 / rank of the first relevant image; its mean over queries is MRR.

    Source: Voorhees, "The TREC-8 Question Answering Track Report" (1999).

    Returns:
        (Q,) in (0, 1].
    """
    start, size, relevant = groups.first.start, groups.first.size, groups.first.relevant
    value = 1.0 / (start.double() + 1.0)
    for i in torch.nonzero(relevant < size)[:, 0].tolist():
        value[i] = _mean_reciprocal_first(int(start[i]), int(size[i]), int(relevant[i]))
    return _of_first(groups.first, value)


def ndcg_at_k(groups: TieGroups, k: int) -> Tensor:
    """nDCG@K = DCG@K / IDCG@K, DCG@K = sum_{i<=K} rel(i) / log2(i + 1), IDCG@K = the same with min(R, K) hits first.

    Source: Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques" (TOIS 2002), binary gains.

    Returns:
        (Q,) in [0, 1].
    """
    discounts = _discounts(k, groups.row.device)
    start = groups.start.clamp(max=k)
    per_group = groups.relevant.double() / groups.size * (discounts[start + groups.within(k)] - discounts[start])
    return quotient(groups.total(per_group), discounts[groups.num_relevant.clamp(max=k)])


def graded_ndcg_at_k(groups: TieGroups, gains: Tensor, ideal: Tensor, k: int) -> Tensor:
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
    discounts = _discounts(k, groups.row.device)
    start = groups.start.clamp(max=k)
    per_group = gains / groups.size * (discounts[start + groups.within(k)] - discounts[start])
    width = min(k, ideal.shape[1])
    return quotient(groups.total(per_group), ideal[:, :width] @ discounts.diff()[:width])


AT_K: dict[str, Callable[[TieGroups, int], Tensor]] = {
    "precision": precision_at_k,
    "hit": hit_at_k,
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
}
WHOLE: dict[str, Callable[[TieGroups], Tensor]] = {
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
    """The names `query_metrics` returns, in its order: "precision@1", ..., "map", "map@r", "r_precision", "mrr".

    >>> import eval
    >>> eval.metric_names((1,))[:2]
    ['precision@1', 'hit@1']
    """
    return [f"{name}@{k}" for name in AT_K for k in ks] + list(WHOLE)


def query_metrics(ranks: RelevantRanks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, NDArray[np.float64]]:
    """Every metric of every query in `ranks`.

    Args:
        ranks: A block of queries from `eval.scoring.ranking.rank_relevant`.
        ks: Cutoffs, each >= 1.

    Returns:
        Metric name -> (Q,) float64 in [0, 1]; NaN for queries without relevant images.

    >>> from eval import rank_relevant
    >>> from timm_gam.search import ExactScorer, fixed_point
    >>> points, labels = fixed_point(np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]), np.array([0, 0, 1, 1])
    >>> [ranks] = rank_relevant(ExactScorer(points, points), labels, labels, self_index=np.arange(4))
    >>> query_metrics(ranks)["map"]
    array([1., 1., 1., 1.])
    """
    groups = TieGroups.of(ranks)
    first = groups.reaching(max(ks, default=0))
    at_k = {f"{name}@{k}": metric(first, k) for name, metric in AT_K.items() for k in ks}
    found = at_k | {name: metric(groups) for name, metric in WHOLE.items()}
    return dict(zip(found, torch.stack([*found.values()]).cpu().numpy(), strict=True))


def _precision_sums(groups: TieGroups, within: Tensor) -> Tensor:
    """(G,) expected sum of precision@i over the relevant images in the first `within` ranks of each group.

    Rank start + j of a group of n with r relevant is relevant with probability r/n, and then r' + 1 + (j-1)(r-1)/(n-1)
    relevant images are expected up to it, r' of them above the group. Summed over j with harmonic numbers H.
    """
    start, size, relevant = groups.start, groups.size, groups.relevant
    end = start + within
    harmonic = _harmonic(int(end.max()).bit_length() if len(end) else 0, start.device)
    single = size == 1
    # The difference of two H loses digits where it is a single term.
    inverse_ranks = torch.where(single, within.double() / (start + 1), harmonic[end] - harmonic[start])
    slope = torch.where(single, 0.0, (relevant - 1).double() / (size - 1).clamp(min=1))
    linear = within - (start + 1) * inverse_ranks  # sum over j of (j-1) / (start+j)
    return relevant.double() / size * ((groups.relevant_before + 1) * inverse_ranks + slope * linear)


@functools.lru_cache(maxsize=2)  # of whole rankings, and of their first R
def _harmonic(bits: int, device: torch.device) -> Tensor:
    """(2^bits,) harmonic numbers H_0, H_1, ..."""
    return torch.from_numpy(np.concatenate(([0.0], np.cumsum(1.0 / np.arange(1, 2**bits))))).to(device)


def _of_first(first: TieGroups, values: Tensor) -> Tensor:
    """(Q,) values of each query's first group; 0 where the ranking holds none of the relevant images."""
    out = torch.where(first.num_relevant > 0, values.new_zeros(()), torch.nan)
    out[first.row] = values
    return out


@functools.lru_cache
def _discounts(k: int, device: torch.device) -> Tensor:
    """(k + 1,) float64: 0, then the discounts 1 / log2(i + 1) of the first i ranks, summed."""
    sums = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))))
    return torch.from_numpy(sums).to(device)


def _mean_reciprocal_first(start: int, size: int, relevant: int) -> float:
    """E[1 / (start + j)], j the place of the first of `relevant` images in a random order of `size`."""
    j = np.arange(1, size - relevant + 2)
    none_yet = np.concatenate(([1.0], np.cumprod((size - relevant - j[:-1] + 1) / (size - j[:-1] + 1))))
    return float(np.sum(none_yet * relevant / (size - j + 1) / (start + j)))
