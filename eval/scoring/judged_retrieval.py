"""Embeddings and judgements -> scored retrieval: graded relevance, ignored junk, queries outside the gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.metrics import DEFAULT_KS, graded_ndcg_at_k, query_metrics
from eval.scoring.qrels import Qrels
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET, RelevantRanks
from eval.scoring.retrieval_scores import RetrievalScores
from eval.scoring.statistics.intervals import average
from eval.scoring.tie_groups import TieGroups
from timm_gam.core import DataError
from timm_gam.search import ExactScorer, Scorer, Vectors, fixed_point

_COLUMNS = 4096


def score_judged(
    queries: Vectors | Scorer,
    gallery: Vectors | None,
    qrels: Qrels,
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    on_progress: Callable[[int], None] = lambda queries: None,
) -> RetrievalScores:
    """Score retrieval against judgements, as exactly as `score_retrieval`: no rounding, ties by expectation.

    Items that `qrels` ignores, and the query itself where it is in the gallery, are taken out of a query's ranking.
    nDCG is graded with linear gains; every other metric takes a grade above 0 as relevant.

    Args:
        queries: (Q, D) vectors, compared by cosine; or a scorer of Q queries against the gallery.
        gallery: (G, D) vectors; None where a scorer came.
        qrels: Judgements by id.
        query_ids: Q ids; queries without a relevant item get NaN and count nowhere.
        gallery_ids: G ids.
        ks: Cutoffs, each >= 1.
        memory_budget: Bytes for blocks of scores.
        on_progress: Called with the number of queries just counted.

    Raises:
        DataError: ids that do not match their vectors or are not unique, a relevant item that the gallery lacks, or no
            query with a relevant item.
        EmbeddingError: vectors that are not finite or not a matrix.

    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> judged = score_judged(vectors[:1], vectors, Qrels({"a": {"b": 2, "c": 1}}), ["a"], ["a", "b", "c"], ks=[1])
    >>> judged.averages["ndcg@1"].micro
    1.0
    """
    scorer = queries if isinstance(queries, Scorer) else _scorer(queries, gallery)
    place = _places(gallery_ids, scorer.gallery, "gallery")
    _places(query_ids, scorer.queries, "query")
    relevant, gains, ignored = _judgements(qrels, query_ids, place)
    parts = []
    rows = max(1, memory_budget // (4 * scorer.bytes_per_block(1, min(_COLUMNS, scorer.gallery))))
    for start in range(0, scorer.queries, rows):
        block = slice(start, min(start + rows, scorer.queries))
        ranks = _rank(scorer, block, relevant[block], ignored[block])
        parts.append(_metrics(ranks, gains[block], ks))
        on_progress(block.stop - block.start)
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scored = np.isfinite(per_query["map"])
    if not scored.any():
        raise DataError(f"none of {len(query_ids)} queries has a relevant item; give judgements of these queries")
    one_class = np.zeros(len(query_ids), dtype=np.int64)  # judgements know no classes
    averages = average(per_query, one_class)
    return RetrievalScores(averages, per_query, one_class, scored, population="queries")


def _scorer(queries: Vectors, gallery: Vectors | None) -> Scorer:
    if gallery is None:
        raise DataError("queries came as vectors and no gallery with them; give the (G, D) vectors that are ranked")
    both = torch.cat([torch.as_tensor(queries).double(), torch.as_tensor(gallery).double()])  # one scale for both
    points = fixed_point(both, "cosine")
    count = len(queries)
    return ExactScorer(points.take(np.arange(count)), points.take(np.arange(count, len(both))))


def _places(ids: Sequence[str], count: int, what: str) -> dict[str, int]:
    place = {name: row for row, name in enumerate(ids)}
    if len(ids) != count or len(place) != count:
        raise DataError(f"{len(place)} different {what} ids came for {count} vectors; one each is needed")
    return place


def _judgements(
    qrels: Qrels, query_ids: Sequence[str], place: dict[str, int]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Of each query: gallery rows of its relevant items, their grades, and gallery rows that are taken out."""
    relevant, gains, ignored = [], [], []
    for query in query_ids:
        grades = qrels.relevant(query)
        missing = [item for item in grades if item not in place]
        if missing:
            raise DataError(
                f"'{missing[0]}' is relevant to '{query}' and not in the gallery; add it, or leave out the judgement"
            )
        out = {*qrels.ignored.get(query, ()), *(() if qrels.self_matches else (query,))}
        relevant.append(np.array([place[item] for item in grades], dtype=np.int64))
        gains.append(np.array(list(grades.values()), dtype=np.float64))
        ignored.append(np.array([place[item] for item in out if item in place], dtype=np.int64))
    return relevant, gains, ignored


def _rank(
    scorer: Scorer, block: slice, relevant: list[NDArray[np.int64]], ignored: list[NDArray[np.int64]]
) -> RelevantRanks:
    targets, left_out = _pair_scores(scorer, block, relevant), _pair_scores(scorer, block, ignored)
    above = torch.zeros_like(targets, dtype=torch.int64)
    tied = torch.zeros_like(above)
    for start in range(0, scorer.gallery, _COLUMNS):
        _count(scorer.block(block, slice(start, min(start + _COLUMNS, scorer.gallery))), targets, above, tied, 1)
    _count(left_out, targets, above, tied, -1)
    counts = torch.tensor([len(items) for items in relevant])
    kept = torch.arange(targets.shape[1])[None] < counts[:, None]
    row = torch.repeat_interleave(torch.arange(len(relevant)), counts)
    return RelevantRanks(torch.arange(len(relevant)), row, above.cpu()[kept], tied.cpu()[kept])


def _pair_scores(scorer: Scorer, block: slice, items: list[NDArray[np.int64]]) -> Tensor:
    """(rows, most) scores of each query's own items, padded with infinity, which no score reaches."""
    most = max((len(one) for one in items), default=0)
    scores = torch.full((len(items), most), torch.inf, dtype=torch.float64, device=scorer.device)
    for row, own in enumerate(items):
        if len(own):
            scores[row, : len(own)] = scorer.block(slice(block.start + row, block.start + row + 1), own)[0]
    return scores


def _count(scores: Tensor, targets: Tensor, above: Tensor, tied: Tensor, sign: int) -> None:
    """Add to each target how many of its row's scores are above it and equal to it."""
    ordered = scores.sort(dim=1).values
    right = torch.searchsorted(ordered, targets, right=True)
    above += sign * ((ordered < torch.inf).sum(dim=1, keepdim=True) - right).clamp_min(0)
    tied += sign * (right - torch.searchsorted(ordered, targets))


def _metrics(
    ranks: RelevantRanks, gains: list[NDArray[np.float64]], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    found = query_metrics(ranks, ks)
    groups = TieGroups.of(ranks)
    span = 1 + int(ranks.above.max()) if len(ranks.above) else 1
    keys = groups.row * span + groups.start
    place = torch.searchsorted(keys, ranks.row * span + ranks.above)
    grades = torch.from_numpy(np.concatenate(gains)) if gains else torch.zeros(0, dtype=torch.float64)
    summed = torch.bincount(place, weights=grades, minlength=len(keys))
    ideal = torch.zeros(len(gains), max((len(own) for own in gains), default=0), dtype=torch.float64)
    for row, own in enumerate(gains):
        ideal[row, : len(own)] = torch.from_numpy(np.sort(own)[::-1].copy())
    return found | {f"ndcg@{k}": graded_ndcg_at_k(groups, summed, ideal, k).numpy() for k in ks}
