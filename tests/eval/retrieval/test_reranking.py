"""A re-ranking as a result: metrics of full float64 rankings, gains over the plain one, and a query's own image."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import eval.scoring.reranked as module
from eval import Recipe, RetrievalResult, Settings, document, evaluate, score
from eval.replay import main as replay
from eval.results.gains import gain_table
from eval.retrieval import main
from eval.tables.metric_tables import summary
from tests.timm_gam.rerank import naive
from timm_gam.core import DataError
from timm_gam.data import (
    EncodedImage,
    ImageReader,
    Protocol,
    choose_protocol,
    draw_synthetic,
    published_class_split,
    training_rows,
)
from timm_gam.embed import EmbedSettings

IMAGES, CLASSES = 120, 8
OPTIONS = {"neighbours": 5.0, "alpha": 2.0}
DBA = Settings(recipe=Recipe(method="dba", options=OPTIONS), intervals="none")


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float64]:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(CLASSES, 12))
    return naive.unit(centres[np.arange(IMAGES) % CLASSES] + 1.2 * rng.normal(size=(IMAGES, 12)))


LABELS = np.arange(IMAGES) % CLASSES


def _average_precision(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> float:
    hits = relevant[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_metrics_are_those_of_the_full_ranking(vectors: NDArray[np.float64]) -> None:
    result = score(vectors, LABELS, settings=DBA)
    for row in range(0, IMAGES, 7):
        rest = np.delete(np.arange(IMAGES), row)
        scores = naive.database_augmentation(vectors[row], vectors[rest], 5, 2.0)
        expected = _average_precision(scores, LABELS[rest] == LABELS[row])
        assert result.metric("map")[row] == pytest.approx(expected, abs=1e-12)
        np.testing.assert_array_equal(result.neighbours[row], rest[np.argsort(-scores)[:100]])
        np.testing.assert_allclose(result.scores[row], np.sort(scores)[::-1][:100], atol=1e-6)


def test_gains_are_the_paired_comparison_with_the_plain_ranking(vectors: NDArray[np.float64]) -> None:
    result = score(vectors, LABELS, settings=DBA)
    plain = score(vectors, LABELS, settings=replace(DBA, recipe=Recipe()))
    assert result.plain is not None and result.facts.recipe is not None
    np.testing.assert_array_equal(result.plain.metric("map"), plain.metric("map"))
    compared, gain = result.compare(plain, "map"), result.facts.recipe.gains["map"]
    assert gain.difference == pytest.approx(compared.difference)
    assert gain.p == compared.p
    by_class = result.facts.recipe.gains_per_class
    assert [each.name for each in by_class] == [str(label) for label in range(CLASSES)]
    expected = compared.per_query[LABELS == 2].mean()
    assert by_class[2].differences["map"] == pytest.approx(expected)
    written = json.loads(json.dumps(document([plain, result])))
    jsonschema.validate(written, json.loads(files("eval.results").joinpath("results.schema.json").read_text()))
    assert written["results"][1]["recipe"]["options"] == OPTIONS


@pytest.mark.parametrize("method", ["qe", "dba", "diffusion", "k-reciprocal"])
def test_a_querys_own_image_never_helps_it(vectors: NDArray[np.float64], method: str) -> None:
    """Whatever stands in its own row of the gallery, another vector given as the query ranks the same."""
    recipe = Recipe(power=0.5, method=method, options={"neighbours": 5})
    query = np.arange(10)
    before = score(vectors, LABELS, query=query, settings=Settings(recipe=recipe, intervals="none"))
    assert before.facts.recipe is not None and before.facts.recipe.form == "strict"
    for row in range(0, 10, 3):
        # The query as a row of its own, outside of the gallery, its own image gone or replaced by a plant.
        with_query = np.concatenate([vectors, vectors[row : row + 1]])
        gallery = np.delete(np.arange(IMAGES), row)
        alone = score(
            with_query,
            np.append(LABELS, LABELS[row]),
            query=[IMAGES],
            gallery=gallery,
            settings=Settings(recipe=recipe, intervals="none"),
        )
        assert alone.metric("map")[0] == pytest.approx(before.metric("map")[row], abs=1e-12)
        np.testing.assert_array_equal(alone.neighbours[0], before.neighbours[row])


def test_the_order_of_the_gallery_says_nothing(vectors: NDArray[np.float64]) -> None:
    shuffled = np.random.default_rng(0).permutation(IMAGES)
    found = score(vectors, LABELS, gallery=shuffled, settings=DBA)
    expected = score(vectors, LABELS, settings=DBA)
    np.testing.assert_allclose(found.metric("map"), expected.metric("map"), atol=1e-12)
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)


def test_the_transductive_form_is_named(vectors: NDArray[np.float64]) -> None:
    recipe = replace(DBA.recipe, transductive=True)
    result = score(vectors, LABELS, settings=replace(DBA, recipe=recipe))
    assert result.facts.recipe is not None and result.facts.recipe.form == "transductive"
    assert result.name == "vectors + dba:neighbours=5,alpha=2 (transductive)"


def test_training_rows_are_no_queries() -> None:
    images = draw_synthetic(4)
    rows, _ = training_rows(images, protocol := choose_protocol(images, split="test"))
    assert len(rows) and not len(np.intersect1d(rows, protocol.query))
    rows, text = training_rows(images, choose_protocol(images, "class-disjoint"))
    assert not published_class_split(images.class_names)[images.labels[rows]].any() and "not held out" in text
    with pytest.raises(DataError, match="nothing can be fitted"):
        training_rows(images, choose_protocol(images))


def test_a_whitening_has_not_seen_what_it_ranks() -> None:
    """Whatever picture stands for a query, the whitening is the same, and the ranking of the others but for it."""
    images = draw_synthetic(10)
    protocol = choose_protocol(images, split="test")
    planted = int(protocol.query[0])
    settings = Settings(EmbedSettings(workers=0), intervals="none", recipe=Recipe(whitening=8))
    found = []
    for image_set in (images, replace(images, reader=_Planted(images.reader, planted))):
        result = evaluate("test_resnet_gam.corel", image_set, protocol, settings=settings)
        assert result.facts.recipe is not None and result.facts.recipe.whitening is not None
        kept = [row[row != planted][:20].tolist() for row in result.neighbours[1:]]
        found.append((result.facts.recipe.whitening.sha256, kept))
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.mark.parametrize("method", ["qe", "dba", "diffusion", "k-reciprocal"])
def test_a_copy_in_another_class_and_whatever_is_done_with_vectors(method: str, cache: Path) -> None:
    """Views, pooling, power, whitening and re-ranking at once: the query is left out by its place, its copy is not, and
    all is ranked as if the query's own row were not there."""
    images = draw_synthetic(10)
    rows = choose_protocol(images, split="test").query
    query, planted = int(rows[0]), int(rows[-1])
    images = replace(images, reader=_Copied(images.reader, query, planted))
    settings = Settings(
        EmbedSettings(workers=0, flip=True, scales=(1.0, 0.7), pool="gem"),
        intervals="none",
        cache_folder=cache,
        recipe=Recipe(power=0.5, whitening=16, method=method, options={"neighbours": 5}),
    )

    def ranked(gallery: NDArray[np.int64]) -> RetrievalResult:
        protocol = Protocol("query-gallery", "one row", "none", np.array([query]), gallery, ("test",))
        return evaluate("test_resnet_gam.corel", images, protocol, settings=settings)

    found, alone = ranked(rows), ranked(np.setdiff1d(rows, [query]))
    np.testing.assert_array_equal(found.neighbours, alone.neighbours)
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    first = [found.ids[row] for row in found.neighbours[0]]
    assert images.ids[query] not in first and images.ids[planted] in first[:2]
    assert images.labels[planted] != images.labels[query] and 0 < found.metric("map")[0] < 1


class _Copied:
    def __init__(self, reader: ImageReader, query: int, place: int) -> None:
        self.reader, self.query, self.place, self.parallel = reader, query, place, reader.parallel

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        for row in indices:
            for _, image in self.reader.read([self.query if row == self.place else row]):
                yield row, image


class _Unread:
    parallel = False

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        raise AssertionError("images are read")


@pytest.mark.parametrize("method", ["dba", "diffusion", "k-reciprocal"])
def test_more_neighbours_than_there_are_is_said_before_anything_is_embedded(method: str) -> None:
    images = replace(draw_synthetic(2), reader=_Unread())
    settings = Settings(recipe=Recipe(method=method, options={"neighbours": 60}))
    with pytest.raises(DataError, match=f"neighbours of {method} is 60; 1 to 5[89] are legal in a gallery of 60"):
        evaluate("test_resnet_gam.corel", images, settings=settings)


class _Planted:
    def __init__(self, reader: ImageReader, row: int) -> None:
        self.reader, self.row, self.parallel = reader, row, reader.parallel

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        for row, image in self.reader.read(indices):
            yield row, Image.new("RGB", (96, 64), "red") if row == self.row else image


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "walk"}, "legal: qe, dba"),
        ({"method": "dba", "options": {"steps": 3}}, "legal: neighbours, alpha"),
        ({"method": "dba", "options": {"neighbours": 2.5}}, "a whole number from 1"),
        ({"power": 0}, "above 0"),
        ({"transductive": True}, "came without one"),
    ],
)
def test_recipes_that_are_refused(options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Recipe(**options)


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """--dataset synthetic has 10 images of a class, not 30."""
    monkeypatch.setattr("timm_gam.data.read.draw_synthetic", lambda: draw_synthetic(10))


@pytest.mark.usefixtures("few_scenes")
def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = "--model test_resnet_gam.corel --dataset synthetic --split test --interval none --power 0.5 --whiten 8"
    more = "-j 0 --tta flip --rerank qe:neighbours=3 --results-file -"
    assert main([*command.split(), *more.split()]) == 0
    written = json.loads(capsys.readouterr().out)
    plain, better = written["results"]
    assert plain["recipe"] is None and plain["model"]["views"] == {"flip": True}
    assert better["recipe"]["whitening"]["fitted_on"] == "240 images of split 'train', none of them a query"
    assert better["recipe"]["power"] == 0.5 and set(better["recipe"]["gains"]) >= {"map", "hit@1"}
    for wrong in ("--transductive", "--rerank dba --distance euclidean", "--scales 0", "--pool gem --layer pre_logits"):
        with pytest.raises(SystemExit, match="2"):
            main(["--dataset", "synthetic", *wrong.split()])
    assert main(["--dataset", "synthetic", "--rerank", "dba:neighbours"]) == 2
    assert "OPTION=NUMBER" in capsys.readouterr().err


def test_every_line_names_the_population_of_its_intervals(vectors: NDArray[np.float64]) -> None:
    """What an image does to a re-ranking of the others is not known: those have intervals for other queries."""
    images, queries = "for other images of the same classes", "for other queries of the same classes; the gallery stays"

    def printed(recipe: Recipe) -> str:
        better = score(vectors, LABELS, settings=Settings(recipe=recipe, intervals="images"))
        assert better.plain is not None
        return summary(better.plain, better) + gain_table(better)

    text = printed(DBA.recipe)
    assert f"intervals vectors: 95 %, {images}" in text
    assert f"\n          vectors + dba:neighbours=5,alpha=2: 95 %, {queries}" in text
    assert f"\nintervals and p {queries}\n" in text
    text = printed(Recipe(power=0.5))  # another vector for each image, nothing more
    assert f"intervals 95 %, {images}" in text and f"\nintervals and p {images}" in text
    better = score(vectors, LABELS, settings=replace(DBA, intervals="classes"))
    assert better.plain is not None and better.facts.recipe is not None
    assert better.plain.facts.intervals.population == "classes"
    assert better.facts.intervals.population == better.facts.recipe.population == "queries"


@pytest.mark.usefixtures("few_scenes")
def test_a_replay_ranks_by_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "r.json"
    command = "--model test_resnet_gam.corel --dataset synthetic --split test --interval none --tta flip --power 0.5"
    assert main([*command.split(), "-j", "0", "--rerank", "diffusion:neighbours=4", "--results-file", str(record)]) == 0
    assert replay([str(record), "--dataset", "synthetic"]) == 0
    assert "diffusion:neighbours=4: all 24 metrics are the same" in capsys.readouterr().out


def test_examples() -> None:
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
