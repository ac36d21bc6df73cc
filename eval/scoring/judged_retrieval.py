"""Embeddings and judgements -> scored retrieval: graded relevance, ignored junk, queries outside the gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eval.scoring.metrics import DEFAULT_KS, graded_ndcg_at_k, query_metrics
from eval.scoring.qrels import Qrels
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET, RelevantRanks
from eval.scoring.retrieval_scores import RetrievalScores
from eval.scoring.statistics.intervals import average
from eval.scoring.tie_groups import TieGroups
from timm_gam.core import DataError
from timm_gam.search import ExactScorer, Scorer, Vectors, fixed_point, on_one_scale, slices

_COLUMNS = 4096
_BYTES_PER_SCORE = 32  # as it came, sorted, and what sorting takes


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
    if isinstance(queries, Scorer):
        scorer: Scorer = queries
    elif gallery is None:
        raise DataError("queries came as vectors and no gallery with them; give the (G, D) vectors that are ranked")
    else:
        both = (fixed_point(vectors) for vectors in (queries, gallery))
        scorer = ExactScorer(*on_one_scale(*both))
    place = _places(gallery_ids, scorer.gallery, "gallery")
    _places(query_ids, scorer.queries, "query")
    relevant, gains, ignored = _judgements(qrels, query_ids, place)
    parts = []
    rows = max(1, memory_budget // (_BYTES_PER_SCORE * scorer.gallery + scorer.bytes_per_block(1, _COLUMNS)))
    for block in slices(0, scorer.queries, rows):
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


def _places(ids: Sequence[str], count: int, what: str) -> dict[str, int]:
    place = {name: row for row, name in enumerate(ids)}
    if len(ids) != count or len(place) != count:
        raise DataError(f"{len(place)} different {what} ids came for {count} vectors; one each is needed")
    return place


def _judgements(
    qrels: Qrels, query_ids: Sequence[str], place: dict[str, int]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
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
        relevant.append(torch.tensor([place[item] for item in grades], dtype=torch.int64))
        gains.append(torch.tensor(list(grades.values()), dtype=torch.float64))
        ignored.append(torch.tensor([place[item] for item in out if item in place], dtype=torch.int64))
    return relevant, gains, ignored


def _rank(scorer: Scorer, block: slice, relevant: list[Tensor], ignored: list[Tensor]) -> RelevantRanks:
    scores = torch.empty(len(relevant), scorer.gallery, dtype=torch.float64, device=scorer.device)
    for columns in slices(0, scorer.gallery, _COLUMNS):
        scores[:, columns] = scorer.block(block, columns)
    for own, items in zip(scores, ignored, strict=True):
        own[items] = -torch.inf
    targets = pad_sequence(
        [own[items] for own, items in zip(scores, relevant, strict=True)], batch_first=True, padding_value=torch.inf
    )
    if scores.device.type == "cpu":
        scores.numpy().sort(axis=1)  # NumPy's, as torch's takes ten times as long
    else:
        scores = scores.sort(dim=1).values
    right = torch.searchsorted(scores, targets, right=True)
    row, column = torch.nonzero(targets < torch.inf, as_tuple=True)
    above, tied = scorer.gallery - right, right - torch.searchsorted(scores, targets)
    return RelevantRanks(torch.arange(len(relevant)), row.cpu(), above[row, column].cpu(), tied[row, column].cpu())


def _metrics(ranks: RelevantRanks, gains: list[Tensor], ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    group = torch.unique(torch.stack([ranks.row, ranks.above]), dim=1, return_inverse=True)[1]
    summed = torch.bincount(group, weights=torch.cat(gains))
    ideal = pad_sequence([own.sort(descending=True).values for own in gains], batch_first=True)
    groups = TieGroups.of(ranks)
    graded = {f"ndcg@{k}": graded_ndcg_at_k(groups, summed, ideal, k).numpy() for k in ks}
    return query_metrics(ranks, ks) | graded
