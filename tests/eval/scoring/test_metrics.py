"""Metrics against hand-computed cases, all orders of tied images, scikit-learn and pytorch-metric-learning."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from eval import DEFAULT_KS, RelevantRanks, metric_names, query_metrics, rank_relevant
from eval.scoring.tie_groups import TieGroups
from timm_gam.search import ExactScorer, fixed_point

KS = (1, 2, 3, 5, 20)


def ranks_of(scores: np.ndarray, relevant: np.ndarray) -> RelevantRanks:
    """One query: ranks by direct comparison of every relevant score with every score."""
    hits = scores[relevant]
    above = np.array([int((scores > s).sum()) for s in hits], dtype=np.int64)
    tied = np.array([int((scores == s).sum()) for s in hits], dtype=np.int64)
    return RelevantRanks(
        query=torch.zeros(1, dtype=torch.int64),
        row=torch.zeros(len(hits), dtype=torch.int64),
        above=torch.from_numpy(above),
        tied=torch.from_numpy(tied),
    )


def plain_metrics(relevance: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    """The textbook formulas on one order without ties, term by term."""
    total = sum(relevance)

    def rel(i: int) -> int:
        return relevance[i - 1] if i <= len(relevance) else 0

    def precision(k: int) -> float:
        return sum(rel(i) for i in range(1, k + 1)) / k

    out: dict[str, float] = {}
    for k in ks:
        found = sum(rel(i) for i in range(1, k + 1))
        out[f"precision@{k}"] = found / k
        out[f"recall@{k}"] = found / total
        out[f"hit@{k}"] = float(found > 0)
        dcg = sum(rel(i) / math.log2(i + 1) for i in range(1, k + 1))
        out[f"ndcg@{k}"] = dcg / sum(1 / math.log2(i + 1) for i in range(1, min(total, k) + 1))
    out["map"] = sum(rel(i) * precision(i) for i in range(1, len(relevance) + 1)) / total
    out["map@r"] = sum(rel(i) * precision(i) for i in range(1, total + 1)) / total
    out["r_precision"] = precision(total)
    out["mrr"] = 1 / next(i for i in range(1, len(relevance) + 1) if rel(i))
    return out


def test_hand_computed_ranking() -> None:
    # Relevant images at ranks 1, 3 and 4 of 5.
    scores, relevant = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, 2, 3])
    got = {name: value[0] for name, value in query_metrics(ranks_of(scores, relevant), KS).items()}
    assert got["precision@1"] == 1.0
    assert got["precision@2"] == pytest.approx(1 / 2)
    assert got["precision@20"] == pytest.approx(3 / 20), "K beyond the gallery still divides by K"
    assert got["recall@3"] == pytest.approx(2 / 3)
    assert got["recall@20"] == 1.0
    assert got["hit@1"] == 1.0
    assert got["map"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert got["map@r"] == pytest.approx((1 + 2 / 3) / 3)
    assert got["r_precision"] == pytest.approx(2 / 3)
    assert got["mrr"] == 1.0
    assert got["ndcg@3"] == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2))


def test_hand_computed_tie() -> None:
    # Two images share the first two ranks, one of them relevant: a coin decides which is first.
    got = query_metrics(ranks_of(np.array([0.5, 0.5, 0.1]), np.array([1])), (1, 2))
    assert got["precision@1"][0] == pytest.approx(0.5)
    assert got["hit@1"][0] == pytest.approx(0.5)
    assert got["hit@2"][0] == 1.0
    assert got["mrr"][0] == pytest.approx((1 + 1 / 2) / 2)
    assert got["map"][0] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize("seed", range(40))
def test_ties_are_the_mean_over_all_orders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 8))
    scores = rng.integers(0, rng.integers(1, 5), count).astype(float)
    relevant = np.sort(rng.choice(count, int(rng.integers(1, count + 1)), replace=False))
    is_relevant = np.isin(np.arange(count), relevant)
    orders = [o for o in itertools.permutations(range(count)) if all(np.diff(scores[list(o)]) <= 0)]
    each = [plain_metrics([int(is_relevant[i]) for i in order], KS) for order in orders]
    expected = {name: float(np.mean([e[name] for e in each])) for name in each[0]}
    got = query_metrics(ranks_of(scores, relevant), KS)
    assert list(got) == metric_names(KS)
    for name, value in got.items():
        assert value[0] == pytest.approx(expected[name], abs=1e-12), name


def test_collapsed_embeddings_score_at_chance() -> None:
    # Everything tied: precision@K is the share of relevant images at any K.
    got = query_metrics(ranks_of(np.zeros(100), np.arange(10)), DEFAULT_KS)
    for k in DEFAULT_KS:
        assert got[f"precision@{k}"][0] == pytest.approx(0.1)
    assert got["hit@1"][0] == pytest.approx(0.1)
    assert got["hit@20"][0] == pytest.approx(1 - math.comb(90, 20) / math.comb(100, 20))


def test_query_without_relevant_images_is_undefined() -> None:
    ranks = RelevantRanks(
        query=torch.tensor([0, 1]),
        row=torch.tensor([1]),
        above=torch.tensor([0]),
        tied=torch.tensor([1]),
    )
    for name, value in query_metrics(ranks).items():
        assert np.isnan(value[0]), name
        assert np.isfinite(value[1]), name


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200)
    relevant = np.sort(rng.choice(200, 23, replace=False))
    truth = np.isin(np.arange(200), relevant).astype(int)
    got = query_metrics(ranks_of(scores, relevant), (5, 20))
    assert got["map"][0] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    coarse = np.round(scores)  # many ties; scikit-learn averages the gain over each tied group
    tied = query_metrics(ranks_of(coarse, relevant), (5, 20))
    for k in (5, 20):
        assert got[f"ndcg@{k}"][0] == pytest.approx(ndcg_score([truth], [scores], k=k), abs=1e-12)
        assert tied[f"ndcg@{k}"][0] == pytest.approx(ndcg_score([truth], [coarse], k=k), abs=1e-12)


def test_agrees_with_pytorch_metric_learning() -> None:
    torch = pytest.importorskip("torch")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), rng.integers(2, 30, 20))
    vectors = (rng.normal(size=(20, 32))[labels] + 2 * rng.normal(size=(len(labels), 32))).astype(np.float32)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_reciprocal_rank"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
    )
    peer = calculator.get_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    points = fixed_point(vectors)
    everyone = np.arange(len(labels))
    blocks = list(rank_relevant(ExactScorer(points), labels, labels, self_index=everyone))
    got = {name: float(np.mean(value)) for name, value in query_metrics(blocks[0]).items()}
    assert len(blocks) == 1
    assert got["precision@1"] == pytest.approx(peer["precision_at_1"], abs=1e-6)
    assert got["r_precision"] == pytest.approx(peer["r_precision"], abs=1e-6)
    assert got["map@r"] == pytest.approx(peer["mean_average_precision_at_r"], abs=1e-6)
    assert got["recall@1"] < got["precision@1"], "classes have more than two images"


def test_sums_by_column_have_the_digits_of_sums_in_turn() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 9, 300)
    points = fixed_point(rng.integers(-2, 3, (300, 4)).astype(float))
    for ranks in rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(300)):
        groups = TieGroups.of(ranks)
        values = torch.from_numpy(rng.random(len(groups.row)))
        assert torch.equal(groups.total(values), groups._total_by_column(values))
