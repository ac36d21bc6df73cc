"""Recipes are chosen on validation images, within a budget, and all that was tried is shown."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import eval.tune as module
from eval import Recipe, Settings, choose_protocol, draw_synthetic, published_split, score
from eval.tune import best_of, main, tune, validation_score
from tests.helpers import write_class_folders
from timm_gam.core import DataError
from timm_gam.data import training_rows


def test_the_best_is_found_one_option_at_a_time() -> None:
    def value(recipe: Recipe) -> float:
        if recipe.method == "k-reciprocal":
            raise DataError("too few images")
        options = dict(recipe.options)
        return (recipe.method == "dba") + (options.get("neighbours") == 40) + (options.get("alpha") == 6)

    trials = tune(value)
    assert best_of(trials).recipe == Recipe(method="dba", options={"neighbours": 40, "alpha": 6})
    assert trials[0].recipe == Recipe() and all(trial.recipe.method != "k-reciprocal" for trial in trials)
    assert len({trial.recipe.name for trial in trials}) == len(trials), "nothing is tried twice"


def test_the_budget_ends_it_and_the_plain_ranking_is_always_there() -> None:
    assert [trial.recipe for trial in tune(lambda recipe: 0.5, budget=0)] == [Recipe()]


@pytest.mark.parametrize("recipe", [Recipe(power=0.5), Recipe(method="qe", options={"neighbours": 3})])
def test_a_validation_score_is_that_of_the_evaluation(recipe: Recipe) -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(60, 8)), np.arange(60) % 5
    expected = score(vectors, labels, settings=Settings(recipe=recipe, intervals="none")).averages["map"].micro
    assert validation_score(torch.from_numpy(vectors), labels, recipe) == pytest.approx(expected, abs=1e-12)


def test_test_images_are_not_seen_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    real = module.validation_score

    def spy(vectors: torch.Tensor, labels: np.ndarray, recipe: Recipe, metric: str) -> float:
        seen.append(len(labels))
        return real(vectors, labels, recipe, metric)

    monkeypatch.setattr(module, "validation_score", spy)
    out = tmp_path / "tuned.json"
    command = ["--model", "test_resnet_gam.corel", "--dataset", "synthetic", "-j", "0"]
    assert main([*command, "--results-file", str(out)]) == 0
    images = draw_synthetic()
    protocol = choose_protocol(images, split="test")
    training, _ = training_rows(images, protocol)
    held = published_split([images.ids[row] for row in training], images.labels[training])
    written = json.loads(out.read_text())
    assert set(seen) == {int(held.sum())} and written["validation_images"] == seen[0]
    assert not np.intersect1d(training[held], protocol.query).size
    best = max(written["tried"], key=lambda trial: trial["value"])
    assert written["chosen"] == best["recipe"] and len(written["test"]["results"]) == 2
    said = capsys.readouterr()
    assert all(trial["recipe"] in said.out for trial in written["tried"]) and "chosen" in said.out
    assert main(["--model", "test_resnet_gam.corel", "--dataset", "synthetic", "--metric", "f1"]) == 2


def test_nothing_to_choose_by() -> None:
    with pytest.raises(DataError, match="has a relevant image"):
        tune(lambda recipe: validation_score(torch.eye(1), np.zeros(1), recipe))


def test_classes_of_too_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_folders(tmp_path, classes=3, images=6)
    assert main(["--model", "test_resnet_gam.corel", "--data-dir", str(tmp_path), "-j", "0"]) == 2
    assert "leave 3 for validation" in (said := capsys.readouterr().err) and "no two of one class" in said


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
