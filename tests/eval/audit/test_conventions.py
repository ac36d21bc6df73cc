"""Every number under its library's name, against that library or its published rule, on random rankings with ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval.audit.conventions import conventions
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels

pytrec_eval = pytest.importorskip("pytrec_eval")
Run = dict[str, dict[str, float]]
Judgements = dict[str, dict[str, int]]


def draw(seed: int, *, self_matches: bool = True) -> tuple[Run, Judgements]:
    """12 queries over 30 items of few scores, graded judgements, some items not ranked, one query without any."""
    rng = np.random.default_rng(seed)
    items = [f"d{i}" for i in range(30)]
    run: Run = {}
    qrels: Judgements = {}
    for number in range(12):
        query = items[number] if self_matches else f"q{number}"
        ranked = rng.permutation(items)[: rng.integers(5, 25)].tolist()
        run[query] = {item: float(rng.integers(0, 6)) for item in ranked}
        if self_matches:
            run[query][query] = float(rng.integers(4, 8))
        judged = rng.permutation([item for item in items if item != query])[:6].tolist()
        qrels[query] = {item: int(rng.integers(0, 3)) for item in judged}
        qrels[query][judged[0]] = 1
    del run[next(iter(run))]
    return run, qrels


def printed(run: Run, qrels: Qrels, k: int = 10) -> dict[tuple[str, str], float]:
    rows = conventions(Ranking.from_mapping("run", run), qrels, k)
    return {(row.library.split(",")[0].split(" (")[0], row.name): row.value for row in rows}


@pytest.mark.parametrize("seed", range(20))
def test_trec_eval(seed: int) -> None:
    run, qrels = draw(seed)
    measures = {"map", "map_cut.10", "P.10", "recall.10", "success.10", "ndcg_cut.10", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    ours = {name: value for (library, name), value in printed(run, Qrels(qrels)).items() if library == "trec_eval"}
    assert len(ours) == 7
    for name, value in ours.items():
        assert value == pytest.approx(np.mean([row[name] for row in theirs.values()]), abs=1e-12), name


@pytest.mark.parametrize("seed", range(10))
def test_mteb_with_and_without_its_first_result(seed: int) -> None:
    metrics = pytest.importorskip("mteb._evaluators.retrieval_metrics")
    run, qrels = draw(seed)
    rng = np.random.default_rng(seed)
    # Distinct scores: MTEB drops the first of equal scores in the order of its dictionary, then trec_eval orders by id.
    run = {query: {item: float(rng.random()) for item in items} for query, items in run.items()}
    ours = printed(run, Qrels(qrels))
    plain = metrics.calculate_retrieval_scores(run, {q: qrels[q] for q in run}, [10])
    assert plain.map["MAP@10"] == pytest.approx(ours["trec_eval", "map_cut_10"], abs=1e-5), "it rounds to 5 digits"
    assert plain.hit_rate["HitRate@10"] == pytest.approx(ours["trec_eval", "success_10"], abs=1e-5)
    skipped = metrics.calculate_retrieval_scores(run, {q: qrels[q] for q in run}, [10], skip_first_result=True)
    assert skipped.map["MAP@10"] == pytest.approx(ours["MTEB", "map_cut_10"], abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_ilias_by_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    run, qrels = draw(seed, self_matches=False)
    values = []
    for query, judged in qrels.items():
        relevant = {item for item, grade in judged.items() if grade > 0}
        scores = np.array(list(run.get(query, {}).values()))
        true = np.isin(list(run.get(query, {})), list(relevant))
        found = metrics.average_precision_score(true, scores) * true.sum() if true.any() else 0.0
        values.append(found / min(1000, len(relevant)))
    assert printed(run, Qrels(qrels))["ILIAS", "mAP@1000"] == pytest.approx(np.mean(values), abs=1e-12)


def revisited(ranks: list[str], relevant: set[str], junk: set[str], k: int) -> tuple[float, float]:
    """Trapezoid AP and mP@k as the revisited sets' published evaluation has them, junk taken out, ranks from 0."""
    places = [place for place, item in enumerate([i for i in ranks if i not in junk]) if item in relevant]
    ap = 0.0
    for found, place in enumerate(places):
        ap += ((1.0 if place == 0 else found / place) + (found + 1) / (place + 1)) / (2 * len(relevant))
    limit = min(max(places) + 1, k)
    return ap, sum(place < limit for place in places) / limit


@pytest.mark.parametrize("seed", range(10))
def test_revisited_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gallery = [f"d{i}" for i in range(40)]
    run: Run = {}
    qrels: Judgements = {}
    junk: dict[str, frozenset[str]] = {}
    expected = []
    for number in range(8):
        order = rng.permutation(gallery).tolist()
        marked = rng.permutation(gallery)[:12].tolist()
        qrels[f"q{number}"] = dict.fromkeys(marked[:7], 1)
        junk[f"q{number}"] = frozenset(marked[7:])
        run[f"q{number}"] = {item: -float(place) for place, item in enumerate(order)}
        expected.append(revisited(order, set(marked[:7]), set(marked[7:]), 10))
    ours = printed(run, Qrels(qrels, junk))
    assert ours["revisited Oxford and Paris", "mAP"] == pytest.approx(np.mean([ap for ap, _ in expected]), abs=1e-12)
    assert ours["revisited Oxford and Paris", "mP@10"] == pytest.approx(np.mean([p for _, p in expected]), abs=1e-12)


def test_pytorch_metric_learning() -> None:
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(60) % 6
    calculator: Any = accuracy.AccuracyCalculator(("r_precision", "mean_average_precision_at_r"), k="max_bin_count")
    theirs = calculator.get_accuracy(vectors.astype(np.float32), labels)
    scores = vectors @ vectors.T
    run = {str(q): {str(i): float(scores[q, i]) for i in range(60)} for q in range(60)}
    qrels = {str(q): {str(i): int(labels[i] == labels[q]) for i in range(60) if i != q} for q in range(60)}
    ours = printed(run, Qrels(qrels))
    for name, value in theirs.items():
        assert ours["pytorch-metric-learning", name] == pytest.approx(value, abs=1e-6)
