"""Judgements through the exact engine: equal to trec_eval, to the revisited sets' rules, and to class labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import eval as evaluation
from eval.audit.judged import judge
from eval.audit.measures import per_query
from eval.audit.ranking import Ranking
from eval.scoring.judged_retrieval import score_judged
from eval.scoring.qrels import Qrels
from timm_gam.core import DataError

KS = (1, 5, 10)


def draw(seed: int, *, in_gallery: bool) -> tuple[np.ndarray, np.ndarray, list[str], list[str], Qrels]:
    """Corners of a cube, so that many cosines tie; graded judgements and junk."""
    rng = np.random.default_rng(seed)
    gallery = rng.choice([-1.0, 1.0], (60, 4))
    names = [f"g{row}" for row in range(60)]
    outside = rng.choice([-1.0, 1.0], (12, 4)), [f"q{i}" for i in range(12)]
    queries, query_names = (gallery[:12], names[:12]) if in_gallery else outside
    grades = {query: {item: int(rng.integers(0, 3)) for item in rng.permutation(names)[:20]} for query in query_names}
    junk = {query: frozenset(rng.permutation(names)[:5].tolist()) for query in query_names}
    return queries, gallery, query_names, names, Qrels(grades, junk)


@pytest.mark.parametrize("in_gallery", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_a_full_matrix(seed: int, in_gallery: bool) -> None:
    queries, gallery, query_names, names, qrels = draw(seed, in_gallery=in_gallery)
    found = score_judged(queries, gallery, qrels, query_names, names, ks=KS, memory_budget=2**16)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, gallery)]
    cosine = np.round(unit[0] @ unit[1].T, 9)  # equal but for rounding: these tie
    run = {q: {g: float(cosine[i, j]) for j, g in enumerate(names)} for i, q in enumerate(query_names)}
    expected = per_query(judge(Ranking.from_mapping("run", run), qrels), KS)
    for name, values in found.per_query.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_trec_eval(seed: int) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(10, 6)), rng.normal(size=(50, 6))
    query_names, names = [f"q{i}" for i in range(10)], [f"g{i}" for i in range(50)]
    grades = {q: {g: int(rng.integers(0, 4)) for g in rng.permutation(names)[:15]} | {names[0]: 1} for q in query_names}
    tensors = torch.tensor(queries), torch.tensor(gallery)
    found = score_judged(*tensors, Qrels(grades), query_names, names, ks=KS)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, gallery)]
    cosine = unit[0] @ unit[1].T
    run = {q: {g: float(cosine[i, j]) for j, g in enumerate(names)} for i, q in enumerate(query_names)}
    theirs = pytrec_eval.RelevanceEvaluator(grades, {"map", "ndcg_cut.10", "P.5", "recip_rank"}).evaluate(run)
    for ours, name in (("map", "map"), ("ndcg@10", "ndcg_cut_10"), ("precision@5", "P_5"), ("mrr", "recip_rank")):
        expected = [theirs[query][name] for query in query_names]
        np.testing.assert_allclose(found.per_query[ours], expected, atol=1e-9, err_msg=ours)


def test_classes_as_judgements_give_what_labels_give() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 5
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    names = [str(row) for row in range(40)]
    qrels = Qrels({q: {g: int(labels[i] == labels[j]) for j, g in enumerate(names)} for i, q in enumerate(names)})
    found = score_judged(vectors, vectors, qrels, names, names, ks=KS)
    expected = evaluation.score_retrieval(vectors, labels, ks=KS, intervals="none")
    for name, values in expected.per_query.items():
        np.testing.assert_allclose(found.per_query[name], values, atol=1e-12, err_msg=name)


def test_what_cannot_be_scored_is_one_line() -> None:
    vectors = np.eye(3)
    with pytest.raises(DataError, match="'z' is relevant to 'a' and not in the gallery"):
        score_judged(vectors, vectors, Qrels({"a": {"z": 1}}), list("abc"), list("abc"))
    with pytest.raises(DataError, match="2 different query ids"):
        score_judged(vectors, vectors, Qrels({"a": {"b": 1}}), list("aab"), list("abc"))
    with pytest.raises(DataError, match="none of 3 queries"):
        score_judged(vectors, vectors, Qrels({"x": {"b": 1}}), list("abc"), list("abc"))
    with pytest.raises(DataError, match="no gallery"):
        score_judged(vectors, None, Qrels({"a": {"b": 1}}), list("abc"), list("abc"))


@pytest.mark.parametrize("items", [{"a": float("nan"), "b": 1}, {"a": "2"}, {"a": None}, ["a"]])
def test_a_grade_that_is_no_number_is_refused(items: Any) -> None:
    with pytest.raises(DataError, match="judgements of query 'q' are .*; legal: item id -> a finite number"):
        Qrels({"q": items})
