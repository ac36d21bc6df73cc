"""Our metrics of a judged ranking by brute force over all orders of ties, and equal to those from embeddings."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from eval import score_retrieval
from eval.audit.judged import judge
from eval.audit.measures import measure
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels

KS = (1, 2, 3, 10)


def plain(order: list[str], grades: dict[str, int]) -> dict[str, float]:
    """Every metric of one order, by its definition."""
    relevant = [grades.get(item, 0) > 0 for item in order]
    total = sum(grade > 0 for grade in grades.values())
    precision = [sum(relevant[: i + 1]) / (i + 1) for i in range(len(order))]
    ap = [hit * p for hit, p in zip(relevant, precision, strict=True)]
    out = {
        "map": sum(ap) / total,
        "map@r": sum(ap[:total]) / total,
        "r_precision": sum(relevant[:total]) / total,
        "mrr": next((1 / (i + 1) for i, hit in enumerate(relevant) if hit), 0.0),
    }
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    for k in KS:
        dcg = sum(max(grades.get(item, 0), 0) / np.log2(i + 2) for i, item in enumerate(order[:k]))
        out[f"precision@{k}"] = sum(relevant[:k]) / k
        out[f"hit@{k}"] = float(any(relevant[:k]))
        out[f"recall@{k}"] = sum(relevant[:k]) / total
        out[f"map@{k}"] = sum(ap[:k]) / total
        out[f"ndcg@{k}"] = dcg / sum(grade / np.log2(i + 2) for i, grade in enumerate(ideal[:k]))
    return out


@pytest.mark.parametrize("seed", range(30))
def test_expectation_and_range_over_every_order_of_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = list("abcdefg")
    scores = {item: float(rng.integers(0, 3)) for item in items}
    grades = {item: int(rng.integers(0, 3)) for item in items[:5]} | {"not ranked": 1}
    found = measure(judge(Ranking.from_mapping("run", {"q": scores}), Qrels({"q": grades})), KS)
    orders = [order for order in permutations(items) if all(scores[a] >= scores[b] for a, b in pairwise(order))]
    values = [plain(list(order), grades) for order in orders]
    for name in values[0]:
        column = [value[name] for value in values]
        assert found[name].mean == pytest.approx(np.mean(column), abs=1e-12), name
        assert found[name].least == pytest.approx(min(column), abs=1e-12), name
        assert found[name].most == pytest.approx(max(column), abs=1e-12), name


def test_a_whole_ranking_gives_the_metrics_of_its_embeddings() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (40, 3)).astype(np.float32)
    vectors[np.abs(vectors).sum(axis=1) == 0] = 1
    labels = np.arange(40) % 5
    expected = score_retrieval(vectors, labels, ks=KS, distance="euclidean", intervals="none").averages
    distances = ((vectors[:, None].astype(int) - vectors[None].astype(int)) ** 2).sum(axis=2)
    run = {str(q): {str(i): -float(distances[q, i]) for i in range(40)} for q in range(40)}
    qrels = Qrels({str(q): {str(i): int(labels[i] == labels[q]) for i in range(40)} for q in range(40)})
    found = measure(judge(Ranking.from_mapping("run", run), qrels), KS)
    for name, average in expected.items():
        assert found[name].mean == pytest.approx(average.micro, abs=1e-12), name


def test_a_ranking_completed_is_the_most_a_longer_one_could_give() -> None:
    run = Ranking.from_mapping("run", {"q": {"x": 3.0, "a": 2.0}, "p": {"y": 1.0}})
    judged = judge(run, Qrels({"q": {"a": 1, "b": 2}, "p": {"c": 1}}))
    assert measure(judged, [3])["map"].mean == pytest.approx((1 / 2 / 2 + 0) / 2)
    assert measure(judged.completed(), [3])["map"].mean == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 2) / 2)
