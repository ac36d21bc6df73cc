"""Intervals against hand cases, naive loops, and rankings made anew without an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import eval as evaluation
from eval.retrieval import main
from eval.scoring.retrieval_scores import RetrievalScores, score_retrieval
from eval.scoring.statistics.influence import InfluenceCounter, sample_images
from eval.scoring.statistics.intervals import average, difference
from tests.helpers import write_class_folders

KS = (1, 3, 5)


def _data(sizes: list[int], seed: int = 0, dim: int = 6) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = rng.normal(size=(len(sizes), dim))[labels] + rng.normal(size=(len(labels), dim))
    order = rng.permutation(len(labels))
    return vectors[order], labels[order]


def _weights(scores: RetrievalScores) -> NDArray[np.float64]:
    """(2, Q) of each query in the micro and the macro average."""
    labels, scored = scores.labels, scores.scored
    classes = np.unique(labels[scored])
    macro = [1 / (len(classes) * (labels[scored] == label).sum()) if label in classes else 0 for label in labels]
    return np.stack([np.full(len(labels), 1 / scored.sum()), np.array(macro)]) * scored


@pytest.mark.parametrize("apart", [False, True], ids=["leave-one-out", "query-gallery"])
def test_effects_are_those_of_ranking_anew_without_the_image(apart: bool) -> None:
    vectors, labels = _data([3, 5, 2, 7, 1, 4])
    query = np.arange(8) if apart else np.arange(len(labels))
    gallery = np.arange(8, len(labels)) if apart else query
    scores = score_retrieval(vectors, labels, query=query, gallery=gallery, ks=KS, intervals="images")
    influence, weights = scores.influence, _weights(scores)
    assert influence is not None
    assert sorted(influence.image) == list(range(len(gallery)))
    for place, image in enumerate(influence.image):
        rest = gallery[gallery != gallery[image]]
        asked = query[query != gallery[image]]
        again = score_retrieval(vectors, labels, query=asked, gallery=rest, ks=KS, intervals="none").per_query
        kept = np.isin(query, asked)
        same = labels[asked] == labels[gallery[image]]
        for name, values in again.items():
            change = np.nan_to_num(values - scores.per_query[name][kept])  # NaN: its only relevant image is away
            expected = [[(w[kept] * change * part).sum() for part in (same, ~same)] for w in weights]
            np.testing.assert_allclose(influence.effects[name][:, :, place], expected, atol=1e-7)


def test_a_sample_has_the_effects_of_its_images() -> None:
    vectors, labels = _data([8] * 10)
    whole = score_retrieval(vectors, labels, ks=KS).influence
    classes = labels.astype(np.int64)
    points = evaluation.fixed_point(vectors)
    scorer, everyone = evaluation.ExactScorer(points), np.arange(len(labels))
    names = evaluation.metric_names(KS)
    counter = InfluenceCounter(scorer, classes, classes, everyone, np.ones(len(labels), bool), names, most=30)
    for group in evaluation.rank_relevant(scorer, classes, classes, self_index=everyone):
        counter.add(group)
    from timm_gam.core import ALONE

    some = counter.result(ALONE)
    assert whole is not None
    assert len(some.image) == 30
    assert set(np.bincount(some.label)) == {3}
    place = [whole.image.tolist().index(image) for image in some.image]
    for name, effects in some.effects.items():
        np.testing.assert_allclose(effects, whole.effects[name][..., place], atol=1e-7)


@pytest.mark.parametrize(
    ("sizes", "most"), [([5] * 3, 100), ([100, 2, 50], 20), ([2] * 400, 100), ([1000] * 3, 64), ([1] * 50, 20)]
)
def test_a_sample_is_spread_over_classes(sizes: list[int], most: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = sample_images(labels, most)
    assert len(set(rows)) == len(rows) <= max(most * 1.3, 2 * len(sizes) if len(sizes) <= most / 2 else 0)
    counts = np.bincount(labels[rows], minlength=len(sizes))
    taken = counts[counts > 0]
    assert (taken >= np.minimum(2, np.array(sizes)[counts > 0])).all()


def test_queries_are_student_s_interval_within_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [100, 200, 50])
    values = 0.3 + 0.2 * labels + rng.uniform(-0.1, 0.1, len(labels))
    got = average({"m": values}, labels)["m"]
    variance = sum(values[labels == label].var(ddof=1) * (labels == label).sum() for label in range(3)) / 350**2
    half = stats.t.ppf(0.975, 347) * variance**0.5
    assert got.micro_interval == pytest.approx((got.micro - half, got.micro + half), abs=0.01 * half)  # Wilson's
    variance = sum(values[labels == label].var(ddof=1) / (labels == label).sum() for label in range(3)) / 9
    half = stats.t.ppf(0.975, 347) * variance**0.5
    assert got.macro_interval == pytest.approx((got.macro - half, got.macro + half), abs=0.01 * half)


def test_where_all_queries_hit_the_interval_has_a_width() -> None:
    got = average({"hit@1": np.ones(20)}, np.repeat([0, 1], 10))["hit@1"]
    squared = stats.t.ppf(0.975, 18) ** 2
    assert got.micro_interval == pytest.approx((20 / (20 + squared), 1.0))  # Wilson's at 20 of 20


def test_classes_are_drawn_whole() -> None:
    rng = np.random.default_rng(1)
    means = rng.uniform(0.4, 0.6, 12)
    labels = np.repeat(np.arange(12), 30)
    got = average({"m": means[labels]}, labels, population="classes")["m"]
    half = stats.t.ppf(0.975, 11) * (means.var(ddof=1) / 12) ** 0.5
    assert got.micro_interval == pytest.approx((got.micro - half, got.micro + half), abs=0.03 * half)
    assert got.macro_interval == pytest.approx(got.micro_interval)


def test_images_add_up_naively() -> None:
    vectors, labels = _data([6, 9, 4, 12])
    scores = score_retrieval(vectors, labels, ks=KS, intervals="images")
    influence, values = scores.influence, scores.per_query["map"]
    assert influence is not None
    variance, uncertain = 0.0, 0.0
    for label in range(4):
        of_class = [
            (values[influence.own[i]] - values.mean()) / len(values) - influence.effects["map"][0, :, i].sum()
            for i in np.flatnonzero(influence.label == label)
        ]
        added = len(of_class) * float(np.var(of_class, ddof=1))
        variance, uncertain = variance + added, uncertain + added**2 / (len(of_class) - 1)
    freedom = variance**2 / uncertain  # Satterthwaite's
    mean, interval, p = difference("map", values, labels, population="images", influences=(influence, _none(influence)))
    assert interval is not None and p is not None
    assert interval[1] - mean == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5)
    assert p == pytest.approx(2 * stats.t.sf(mean / variance**0.5, freedom))
    low, high = scores.averages["map"].micro_interval or (0, 0)
    assert low < mean < high


def _none(influence: evaluation.Influence) -> evaluation.Influence:
    effects = {name: np.zeros_like(values) for name, values in influence.effects.items()}
    return evaluation.Influence(
        influence.image, influence.label, influence.own, influence.class_size, influence.gallery, effects
    )


@pytest.mark.parametrize("population", ["queries", "images", "classes"])
def test_comparisons_are_for_the_population_of_both(population: str, tmp_path: Path) -> None:
    vectors, labels = _data([8] * 12)
    noisy = vectors + np.random.default_rng(2).normal(size=vectors.shape)
    settings = evaluation.Settings(ks=KS, intervals=population)  # type: ignore[arg-type]
    good, bad = (evaluation.score(each, labels, settings=settings) for each in (vectors, noisy))
    there, back = good.compare(bad), bad.compare(good)
    assert there.population == population
    assert there.interval is not None and back.interval is not None
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert (there.p < 0.05) == (there.interval[0] > 0 or there.interval[1] < 0)
    assert good.compare(good).interval == (0, 0)
    assert f"for other {population}" in repr(there)
    good.save(tmp_path / "good.safetensors")
    bad.save(tmp_path / "bad.safetensors")
    loaded = [evaluation.RetrievalResult.load(tmp_path / f"{name}.safetensors") for name in ("good", "bad")]
    again = loaded[0].compare(loaded[1])
    assert (again.interval, again.p, again.population) == (there.interval, there.p, population)


def test_another_population_on_each_side_leaves_queries() -> None:
    vectors, labels = _data([8] * 12)
    one, other = (
        evaluation.score(vectors, labels, settings=evaluation.Settings(intervals=population))
        for population in ("images", "classes")
    )
    assert one.compare(other).population == "queries"


def test_the_population_is_named_or_the_data_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(write_class_folders(tmp_path / "photos", classes=3, images=6, side=32))
    command = ["--model", "test_resnet", "--no-pretrained", "--data-dir", photos, "--img-size", "32", "-j", "0"]
    said = {}
    for options in ((), ("--interval", "classes"), ("--interval", "none")):
        assert main([*command, *options]) == 0
        out = capsys.readouterr().out
        said[options[-1] if options else "auto"] = next(line for line in out.splitlines() if "intervals" in line)
    assert "other images of the same classes" in said["auto"]
    assert "too few classes" in said["classes"]
    assert "none" in said["none"]


def test_effects_that_cancel_leave_an_interval_with_a_width() -> None:
    # One miss of 40, by the only image that another query's hit hangs on: whichever image is away, the average stays.
    hits, labels = np.ones(40), np.repeat([0, 1], 20)
    hits[0] = 0.0
    effects = np.zeros((2, 2, 40))
    effects[:, 0, 0] = -1 / 40
    rows = np.arange(40)
    influence = evaluation.Influence(rows, labels, rows, np.full(40, 20), 40, {"hit@10": effects})
    [found] = average({"hit@10": hits}, labels, population="images", influence=influence).values()
    for low, high in (found.micro_interval or (0, 0), found.macro_interval or (0, 0)):
        assert low < 0.95 < high < 1


def test_queries_of_one_each_say_nothing_of_their_spread_whatever_the_gallery_has() -> None:
    vectors, labels = _data([9] * 10)
    query = np.arange(0, 90, 9)
    gallery = np.setdiff1d(np.arange(90), query)
    for intervals in ("images", "queries"):
        scores = score_retrieval(vectors, labels, query=query, gallery=gallery, intervals=intervals)  # type: ignore[arg-type]
        assert scores.averages["map"].micro_interval is None
