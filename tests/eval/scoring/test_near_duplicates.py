"""Metrics without near-duplicates against galleries from which they were taken by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
from eval.caveats.near_duplicates import NearPictures
from eval.evaluation.ranked_result import Ranking, ranked_result
from eval.results.facts import Data, Facts
from eval.scoring import near_duplicates as module
from eval.scoring.retrieval_scores import score_retrieval
from eval.tables.metric_tables import markdown_table, metric_table, model_table, summary
from timm_gam.core import ALONE
from timm_gam.data import Protocol
from timm_gam.images import likeness
from timm_gam.rerank import DatabaseAugmentation, Recipe

COUNT, CLASSES = 60, 4


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors with ties, signatures in groups of one to three near-duplicates, labels across the groups."""
    rng = np.random.default_rng(0)
    vectors = np.round(rng.normal(size=(COUNT, 6)), 0).astype(np.float32) + 0.5
    group = np.sort(rng.integers(0, 35, COUNT))
    signatures = rng.integers(-120, 121, (35, 256))[group] + rng.integers(-20, 21, (COUNT, 256))
    return vectors, np.clip(signatures, -127, 127).astype(np.int8), rng.integers(0, CLASSES, COUNT)


@pytest.mark.parametrize("name", ["leave-one-out", "query-gallery"])
def test_metrics_are_those_of_galleries_without_them(images, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", 16)
    vectors, signatures, labels = images
    everything = np.arange(COUNT)
    query, gallery = (everything, everything) if name == "leave-one-out" else (everything[::3], everything[5:])
    near = likeness(signatures, signatures).numpy() >= module.NEAR
    np.fill_diagonal(near, False)
    with_them = score_retrieval(vectors, labels, query=query, gallery=gallery, ks=(1, 5))
    expected = {key: values.copy() for key, values in with_them.per_query.items()}
    for place, row in enumerate(query):
        kept = gallery[~near[row, gallery]]
        if not (labels[kept[kept != row]] == labels[row]).any():
            values = dict.fromkeys(expected, np.nan)
        else:
            alone = score_retrieval(vectors, labels, query=np.array([row]), gallery=kept, ks=(1, 5))
            values = {key: float(of[0]) for key, of in alone.per_query.items()}
        for key, value in values.items():
            expected[key][place] = value
    splits = (everything % 2).astype(np.int64)
    pictures = NearPictures(signatures, Protocol(name, "", "none", query, gallery), splits, "cpu")
    points, near_too = evaluation.fixed_point(vectors), with_them.per_query
    truth = labels[query], labels[gallery]
    without = pictures.scored_without(
        points.take(query), points.take(gallery), truth, near_too, ks=(1, 5), memory_budget=2**20, world=ALONE
    )
    found = pictures.record([str(i) for i in range(COUNT)], labels, without)
    there = near[np.ix_(query, gallery)]
    assert 0 < found.queries == there.any(axis=1).sum() < len(query)
    assert found.pairs == there.sum()
    apart = there & (splits[query][:, None] != splits[gallery][None])
    assert found.across_splits == apart.any(axis=1).sum() > 0
    assert found.examples[0].across_splits
    scored = np.isfinite(expected["map"])
    assert found.queries_scored == scored.sum()
    for key, means in found.metrics.items():
        assert means.micro == pytest.approx(expected[key][scored].mean(), abs=1e-12)
        by_class = [
            expected[key][scored & (labels[query] == label)].mean() for label in np.unique(labels[query[scored]])
        ]
        assert means.macro == pytest.approx(np.mean(by_class), abs=1e-12)


def test_a_reranking_is_scored_without_them(images) -> None:
    """Its scores are what they were; only who is ranked changes."""
    vectors, signatures, labels = images
    everything = np.arange(COUNT)
    near = likeness(signatures, signatures).numpy() >= module.NEAR
    np.fill_diagonal(near, False)
    of = torch.from_numpy(vectors.astype(np.float64))
    scores = DatabaseAugmentation(of, of, own=torch.from_numpy(everything), neighbours=5).block(slice(0, COUNT)).numpy()
    protocol = Protocol("leave-one-out", "", "none", everything, everything)
    recipe = Recipe(method="dba", options={"neighbours": 5})
    ranking = Ranking(of, tuple(map(str, range(COUNT))), labels, ("a",) * CLASSES, protocol, "cpu", signatures)
    data = Data(name="drawn", fingerprint=None, images=COUNT, classes=CLASSES, warnings=[])
    result = ranked_result(ranking, evaluation.Settings(recipe=recipe), lambda common: Facts(data=data, **common))
    found, expected = result.facts.near_duplicates, []
    for row in range(COUNT):
        kept = np.flatnonzero(~near[row] & (everything != row))
        hits = (labels[kept] == labels[row])[np.argsort(-scores[row, kept], kind="stable")]
        if hits.any():
            expected.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    assert found is not None and found.queries_scored == len(expected)
    assert found.metrics["map"].micro == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.plain is not None and result.plain.facts.near_duplicates is not None
    assert found.metrics["map"].micro != result.plain.facts.near_duplicates.metrics["map"].micro


def test_a_set_of_copies_keeps_no_list_of_pairs() -> None:
    signatures = np.ones((300, 256), dtype=np.int8)
    found = module.find_near_duplicates(signatures, signatures, np.arange(300))
    assert found.counts.tolist() == [299] * 300
    assert found.crossing is None and len(found.examples) == 48


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six scenes, train and test; two of them in both, smaller."""
    root = tmp_path_factory.mktemp("near") / "photos"
    drawn = evaluation.draw_synthetic(6)
    for row, image in drawn.reader.read(range(12)):
        name = drawn.class_names[drawn.labels[row]]
        folder = root / ("train" if row % 2 else "test") / name
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(image, Image.Image)
        image.save(folder / f"{row}.png")
        if row in (1, 7):
            copy = root / "test" / name / f"{row}-again.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            image.resize((100, 100)).save(copy)
    return root


def test_a_result_says_it_everywhere(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = evaluation.Settings(cache_folder=tmp_path / "cache")
    images = evaluation.read_folder(photos)
    result = evaluation.evaluate("test_resnet.corel", images, settings=settings)
    near = result.facts.near_duplicates
    assert near is not None and near.queries == near.across_splits == 4
    assert {frozenset((Path(pair.query).stem, Path(pair.match).stem)) for pair in near.examples} == {
        frozenset({"1", "1-again"}),
        frozenset({"7", "7-again"}),
    }
    assert near.metrics["map"].micro < result.averages["map"].micro
    monkeypatch.setattr(module, "find_near_duplicates", None)  # pictures are compared once, not for every model
    again = evaluation.evaluate("test_resnet_se.corel", images, settings=settings).facts.near_duplicates
    assert again is not None and again.examples == near.examples
    cached = evaluation.evaluate("test_resnet.corel", images, settings=settings)
    assert cached.facts.timings.images_embedded == 0
    assert cached.facts.near_duplicates == near
    assert "28.6 % of queries (4) have a near-duplicate in their gallery, 4 of another split" in summary(result)
    value = f"{100 * near.metrics['map'].micro:.2f}"
    assert any(
        line.startswith("map without near-duplicates") and value in line for line in metric_table([result]).splitlines()
    )
    assert "hit@1 without near-duplicates" in metric_table([result], all_metrics=True)
    assert "without near" in model_table([result, cached]) and value in markdown_table([result, cached])
    result.save(tmp_path / "result.safetensors")
    assert evaluation.RetrievalResult.load(tmp_path / "result.safetensors").facts == result.facts
    entry = json.loads(json.dumps(evaluation.document([result])))["results"][0]
    assert entry["near_duplicates"]["metrics"]["hit@1"]["micro"] == near.metrics["hit@1"].micro


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_finds_the_same(images) -> None:
    signatures = images[1]
    found = [module.find_near_duplicates(signatures, signatures, np.arange(COUNT), device=d) for d in ("cpu", "cuda")]
    np.testing.assert_array_equal(found[0].counts, found[1].counts)
