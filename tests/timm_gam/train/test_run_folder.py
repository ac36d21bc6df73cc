"""A run folder is one run's: no other writes into it, and what its records say is what made its weights."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import timm_gam.train.output.saving as saving
from tests.timm_gam.train.helpers import metrics, small_recipe, train_quietly, write_shapes
from timm_gam.core import OutputError, RunFolderError, hold_folder
from timm_gam.train import Recipe, RunFolder
from timm_gam.train.output.checkpoint import Position, load_state, save_state


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    photos = write_shapes(tmp_path_factory.mktemp("photos"), classes=3, images=10)
    return small_recipe(data_dir=str(photos), epochs=1, model="test_resnet")


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_quietly(recipe, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"epochs": 3}, {"val_share": 0.5}, {"scale": (0.5, 1.0)}])
def test_a_run_goes_on_by_its_own_recipe_only(change: dict, recipe: Recipe, finished: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=f"was trained with {next(iter(change))} = .*put it back"):
        train_quietly(replace(recipe, **change), finished.path, resume=True)


def test_what_changes_no_weight_may_differ(recipe: Recipe, finished: RunFolder) -> None:
    before = finished.last.read_bytes()
    train_quietly(replace(recipe, save_every=1, cache_images=0), finished.path, resume=True)
    assert finished.last.read_bytes() == before


def test_a_folder_in_use_is_refused(recipe: Recipe, finished: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for folder, resume in ((tmp_path / "new", False), (finished.path, True)):
        with hold_folder(folder), pytest.raises(OutputError, match="in use by another process"):
            train_quietly(recipe, folder, resume=resume)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that inherit locks")
def test_a_child_that_lives_longer_holds_nothing(tmp_path: Path) -> None:
    """As a loader process of a training that was killed does, for some seconds."""
    ends, end = os.pipe()
    started, start = os.pipe()
    with hold_folder(tmp_path):
        child = os.fork()
        if not child:
            os.write(start, b"x")
            os.read(ends, 1)
            os._exit(0)
        os.read(started, 1)
    try:
        with hold_folder(tmp_path):
            pass
    finally:
        os.write(end, b"x")
        os.waitpid(child, 0)


@pytest.mark.parametrize("left", ["last", "evaluation"])
def test_weights_without_their_state_are_not_overwritten(left: str, recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    getattr(folder, left).write_text("all that is left")
    with pytest.raises(RunFolderError, match="of a run without its state"):
        train_quietly(recipe, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["all that is left"]


def test_best_weights_of_a_run_without_a_state_are_not_taken_for_this_runs(recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    saving.save_tensors(folder.best, {"other": torch.zeros(1)}, {"epoch": 9, "val_map": 2.0})
    train_quietly(recipe, tmp_path)
    assert train_quietly(recipe, tmp_path, resume=True).best.stat().st_size > 1000


def test_best_weights_that_are_gone_are_missed_before_training_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    folder = train_quietly(recipe, tmp_path / "run")
    folder.best.unlink()
    with pytest.raises(RunFolderError, match="the weights of epoch 1, the best so far: put it back"):
        train_quietly(recipe, folder.path, resume=True)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adan", "adafactor", "muon"])
def test_the_state_of_any_optimizer_goes_on(name: str, recipe: Recipe, tmp_path: Path) -> None:
    """LAMB and Adan count their steps in their groups."""

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        return model, create_optimizer_v2(model, name, lr=0.01, momentum=0.9)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            model(torch.arange(8.0).view(2, 4)).square().sum().backward()
            optimizer.step()

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    model, optimizer = fresh()
    step(model, optimizer, 3)
    save_state(tmp_path / "state", Position(), {"model": model}, optimizer, scaler, recipe, {})
    again, resumed = fresh()
    load_state(tmp_path / "state", {"model": again}, resumed, scaler)
    step(model, optimizer, 3)
    step(again, resumed, 3)
    assert torch.equal(model.weight, again.weight)


def test_a_model_that_cannot_be_validated_is_refused_before_the_first_epoch(recipe: Recipe, tmp_path: Path) -> None:
    assert "test_mambaout" in timm.list_models()
    with pytest.raises(RuntimeError, match="does not say how it pools"):
        train_quietly(replace(recipe, model="test_mambaout"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_recorded_rate_is_that_of_what_is_not_scaled(recipe: Recipe, tmp_path: Path) -> None:
    still = replace(recipe, model="test_resnet_gam", freeze=("backbone",), attention_lr_scale=0.0)
    assert float(metrics(train_quietly(still, tmp_path / "run"))[0]["lr"]) == recipe.lr
