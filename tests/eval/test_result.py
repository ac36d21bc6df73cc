"""The result object: against full float64 matrices, through its file, and with what cannot be paired or read."""

from __future__ import annotations

import doctest
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import eval as evaluation
import eval.evaluation.evaluate as module
from eval.results.document import Document
from tests.helpers import write_class_folders
from timm_gam.core import DataError, EmbeddingError, OutputError

CLASSES = ("bark", "<b>cat & dog</b>", "sea")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (np.repeat(np.eye(3), 8, axis=0) @ rng.normal(size=(3, 16)) + rng.normal(size=(24, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def labels() -> list[str]:
    return [name for name in CLASSES for _ in range(8)]


@pytest.fixture(scope="module")
def result(vectors, labels) -> evaluation.RetrievalResult:
    return evaluation.score(vectors, labels, ids=[f"{i}.jpg" for i in range(24)])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbours_and_their_scores_are_those_of_a_full_matrix(vectors, labels, distance: str) -> None:
    result = evaluation.score(vectors, labels, settings=evaluation.Settings(distance=distance, depth=7))
    rows = vectors.astype(np.float64)
    if distance == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        oracle = rows @ rows.T
    else:
        oracle = -np.linalg.norm(rows[:, None] - rows[None], axis=2)
    np.fill_diagonal(oracle, -np.inf)
    order = np.argsort(-oracle, axis=1)[:, :7]
    np.testing.assert_array_equal(result.neighbours, order)
    expected = np.take_along_axis(oracle, order, 1) * (1 if distance == "cosine" else -1)
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    truth = np.array(labels)
    np.testing.assert_array_equal(result.relevant, truth[order] == truth[:, None])
    np.testing.assert_array_equal(result.per_query["precision@5"], result.relevant[:, :5].mean(axis=1))


def test_any_kind_of_vectors_and_labels_gives_the_same(vectors, labels, result) -> None:
    kinds = [
        (torch.from_numpy(vectors), torch.arange(3).repeat_interleave(8)),
        (vectors.tolist(), labels),
        (vectors.astype(np.float64), np.repeat([2**40, 7, -1], 8)),
    ]
    for some_vectors, some_labels in kinds:
        other = evaluation.score(some_vectors, some_labels)
        np.testing.assert_array_equal(other.per_query["map"], result.per_query["map"])
    half = evaluation.score(torch.from_numpy(vectors).bfloat16(), labels)
    assert abs(half.averages["map"].micro - result.averages["map"].micro) < 0.02


def test_queries_and_gallery_can_be_chosen(vectors, labels) -> None:
    result = evaluation.score(vectors, labels, query=[0, 8, 16], gallery=range(1, 24))
    assert result.facts.protocol.name == "query-gallery"
    assert result.neighbours.shape == (3, 22)
    assert not (result.neighbours == result.query[:, None]).any()
    assert not (result.neighbours == 0).any()


def test_what_it_shows(result) -> None:
    assert "24 queries" in repr(result)
    assert len(repr(result)) < 300
    html = result._repr_html_()
    assert "<b>" not in html
    assert f"{100 * result.averages['map'].micro:.2f}" in html
    frame = result.to_pandas()
    assert frame["map"].mean() == pytest.approx(result.averages["map"].micro, abs=1e-12)
    assert list(frame.index) == list(result.ids)
    classes = result.per_class()
    assert [entry.name for entry in classes] == sorted(CLASSES)
    assert sum(entry.queries * entry.metrics["map"] for entry in classes) / 24 == pytest.approx(frame["map"].mean())
    worst, best = result.failures(3), result.failures(1, best=True)
    assert [query.value for query in worst] == sorted(frame["map"])[:3]
    assert best[0].value == frame["map"].max()
    assert worst[0].ranked == result.ranking(worst[0].id).ranked
    confusion = result.confusion(5)
    np.testing.assert_allclose(confusion.sum(axis=1), 1)
    assert np.diag(confusion).mean() == pytest.approx(result.averages["precision@5"].macro)


def test_comparison_is_paired(vectors, labels, result) -> None:
    noisy = evaluation.score(vectors + np.random.default_rng(1).normal(size=vectors.shape), labels, ids=result.ids)
    comparison = result.compare(noisy)
    assert comparison.difference == pytest.approx(result.averages["map"].micro - noisy.averages["map"].micro)
    low, high = comparison.interval
    assert low <= comparison.difference <= high
    assert comparison.won + comparison.lost + comparison.tied == 24
    assert 0 < comparison.p <= 1
    same = result.compare(result)
    assert (same.difference, same.p, same.won, same.lost) == (0, 1, 0, 0)
    with pytest.raises(DataError, match="same images"):
        result.compare(evaluation.score(vectors, labels))
    with pytest.raises(DataError, match="it has precision@1"):
        result.compare(noisy, "precision@7")
    fewer = evaluation.score(vectors, labels, ids=result.ids, gallery=np.arange(len(labels)) != 5)
    with pytest.raises(DataError, match=f"not in both, or of another class, is '{result.ids[5]}'"):
        result.compare(fewer)


def test_through_a_file(result, tmp_path: Path) -> None:
    path = tmp_path / "result.safetensors"
    result.save(path)
    again = evaluation.RetrievalResult.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.safetensors"]
    assert (again.ids, again.class_names, again.facts) == (result.ids, result.class_names, result.facts)
    assert again.averages == result.averages
    for name in ("labels", "query", "gallery", "neighbours", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert again.per_query.keys() == result.per_query.keys()
    assert again.compare(result).difference == 0
    with pytest.raises(OutputError):
        result.save(tmp_path / "no" / "folder")


def test_a_file_from_elsewhere_is_not_trusted(result, tmp_path: Path) -> None:
    good = tmp_path / "result.safetensors"
    result.save(good)
    tensors = load_file(good)
    meta = {"format": "timm-gam/result/1"}
    text = lambda value: np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)  # noqa: E731
    bad = {
        "format": (tensors, {"format": "other"}),
        "missing": ({name: t for name, t in tensors.items() if name != "facts"}, meta),
        "outside": ({**tensors, "neighbours": tensors["neighbours"] + 20}, meta),
        "dtype": ({**tensors, "labels": tensors["labels"].astype(np.float32)}, meta),
        "range": ({**tensors, "metric/map": tensors["metric/map"] + 1}, meta),
        "rows": ({**tensors, "metric/map": tensors["metric/map"][:3]}, meta),
        "facts": ({**tensors, "facts": text({"data": 3})}, meta),
        "json": ({**tensors, "ids": text("x")[:-1]}, meta),
        "effects": ({**tensors, "effect/map": tensors["effect/map"][:1]}, meta),
        "image": ({**tensors, "influence/image": tensors["influence/image"] + 20}, meta),
        "unknown": ({**tensors, "metric/x": tensors["metric/map"]}, meta),
    }
    for name, (content, metadata) in bad.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(content, path, metadata=metadata)
        with pytest.raises(DataError, match="no saved result") as error:
            evaluation.RetrievalResult.load(path)
        assert "\n" not in str(error.value), name
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    for path in (tmp_path / "pickle", tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError):
            evaluation.RetrievalResult.load(path)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([[1.0, 0.0]], ["a", "b"]), DataError, "2 labels came for 1 vectors"),
        (([[1.0, np.nan], [0.0, 1.0]], ["a", "a"]), EmbeddingError, "NaN"),
        (([[1.0, 0.0], [0.0, 1.0]], ["a", "b"]), DataError, "none of 2 queries"),
    ],
)
def test_bad_input_is_one_line(arguments, error, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        evaluation.score(*arguments)
    assert "\n" not in str(caught.value)
    vectors, labels = [[1.0, 0.0], [0.5, 0.5]], ["a", "a"]
    for wrong in ({"query": [2]}, {"gallery": []}, {"ids": ["x", "x"]}):
        with pytest.raises(DataError):
            evaluation.score(vectors, labels, **wrong)


def test_from_a_model_and_a_folder(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=4)
    settings = evaluation.Settings(intervals="none")
    by_name = evaluation.evaluate("test_resnet.corel", photos, settings=settings)
    model = evaluation.load_model("test_resnet.corel").model
    by_module = evaluation.evaluate(model, evaluation.read_folder(photos), settings=settings)
    assert by_name.facts.weights.kind == "pretrained"
    assert by_module.facts.weights.kind == "module"
    assert by_module.facts.weights.sha256 == by_name.facts.weights.sha256
    assert by_module.averages == by_name.averages
    assert by_name.images.name == "photos"
    document = evaluation.document([by_name, by_module])
    jsonschema.validate(document, json.loads(files("eval.results").joinpath("results.schema.json").read_text()))


def test_the_schema_is_that_of_the_records() -> None:
    committed = json.loads(files("eval.results").joinpath("results.schema.json").read_text())
    committed.pop("$schema")
    assert committed == Document.model_json_schema()


def test_examples() -> None:
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
