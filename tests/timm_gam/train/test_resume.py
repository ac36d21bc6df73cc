"""Nothing is lost: a run that ends at any point and goes on equals the one that did not end, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import timm_gam.train.output.saving as saving
from tests.processes import start
from tests.timm_gam.train.helpers import SMALL, Stop, metrics, small_recipe, stop_after, train_quietly, write_shapes
from timm_gam.core import DivergedError, Interrupted, RunFolderError
from timm_gam.train import Recipe, RunFolder, Trainer
from timm_gam.train.__main__ import main
from timm_gam.train.output.checkpoint import save_state
from timm_gam.train.step.batches import training_batches
from timm_gam.train.step.objective import Objective

COMPARED = ("epoch", "lr", "train_loss", "val_map", "val_hit@1", "val_hit@10", "val_precision@10")


def eventful(photos: Path) -> Recipe:
    """Everything that has a state or draws numbers: momentum, averages, mixup, erasing, drop path, accumulation."""
    return small_recipe(
        data_dir=str(photos), epochs=3, batch_size=4, accumulate=2, warmup_epochs=1, opt="adamw", lr=1e-3, mixup=0.3,
        reprob=0.3, aa="rand-m9-mstd0.5", drop_path=0.2, ema_decay=0.9, save_every=1,
    )  # fmt: skip


def rarely_saved(photos: Path) -> Recipe:
    """An epoch more, and states by time."""
    return replace(eventful(photos), save_every=0, epochs=4)


@pytest.fixture(scope="module")
def longer(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_quietly(rarely_saved(photos), tmp_path_factory.mktemp("runs") / "longer")


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_quietly(eventful(photos), tmp_path_factory.mktemp("runs") / "whole")


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    for a, b in ((one.best, other.best), (one.last, other.last)):
        assert a.read_bytes() == b.read_bytes()
    assert compared(one) == compared(other)
    with safe_open(one.state, "pt") as a, safe_open(other.state, "pt") as b:
        assert sorted(a.keys()) == sorted(b.keys())
        assert all(torch.equal(a.get_tensor(name), b.get_tensor(name)) for name in a.keys())  # noqa: SIM118
    results = [json.loads(folder.evaluation.read_text())["results"][0] for folder in (one, other)]
    assert results[0]["metrics"] == results[1]["metrics"]


def compared(folder: RunFolder) -> list[list[str]]:
    return [[row[column] for column in COMPARED] for row in metrics(folder)]


@pytest.mark.parametrize("after", [1, 3, 8])
def test_resuming_after_any_update_changes_no_bit(
    after: int, uninterrupted: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        with pytest.raises(Stop):
            train_quietly(eventful(photos), tmp_path / "run")
    assert_same_run(train_quietly(eventful(photos), tmp_path / "run", resume=True), uninterrupted)


@pytest.mark.parametrize("write", ["save_tensors", "write_metrics"])
def test_dying_between_the_state_and_the_files_made_from_it_changes_no_bit(
    write: str, uninterrupted: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(saving if write == "save_tensors" else RunFolder, write, dies)
        with pytest.raises(Stop):
            train_quietly(eventful(photos), tmp_path / "run")
    assert_same_run(train_quietly(eventful(photos), tmp_path / "run", resume=True), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_first(
    number: int, uninterrupted: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, update = replace(eventful(photos), save_every=0), Trainer._update

    def interrupts(self: Trainer, batches: object, position: object) -> torch.Tensor:
        if self.scheduler is not None and len(calls) == 4:
            os.kill(os.getpid(), number)
        calls.append(None)
        return update(self, batches, position)

    calls: list[None] = []
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupts)
        with pytest.raises(Interrupted) as stopped:
            train_quietly(recipe, tmp_path / "run")
    assert stopped.value.signal == number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert 4 < len(calls) < 9  # it did end early
    assert_same_run(train_quietly(recipe, tmp_path / "run", resume=True), uninterrupted)


def test_a_signal_while_loader_processes_end_is_not_forgotten(
    uninterrupted: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came after the last look of the loop for one, and the test split was scored all the same."""

    @contextmanager
    def interrupted(*arguments: Any, **options: Any) -> Iterator[object]:
        with training_batches(*arguments, **options) as batches:
            yield batches
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("timm_gam.train.run.training_batches", interrupted)
        with pytest.raises(Interrupted):
            train_quietly(eventful(photos), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").evaluation.exists()
    assert_same_run(train_quietly(eventful(photos), tmp_path / "run", resume=True), uninterrupted)


def train_slowly(argv: list[str]) -> int:
    """The command, which does not end before it is killed, however late that is noticed."""
    update = Trainer._update

    def slow(self: Trainer, *arguments: object) -> torch.Tensor:
        time.sleep(0.1)
        return update(self, *arguments)  # type: ignore[arg-type]

    Trainer._update = slow  # type: ignore[method-assign]
    return main(argv)


def test_kill_9_and_resume_by_command_line(photos: Path, tmp_path: Path) -> None:
    """A real process, killed at no moment in particular."""
    options = ["--data-dir", str(photos), "--output", str(tmp_path / "run"), "--config", str(tmp_path / "recipe.yaml")]
    recipe = Recipe(**{**SMALL, "epochs": 12})
    (tmp_path / "recipe.yaml").write_text(recipe.as_yaml())
    folder = RunFolder(tmp_path / "run")
    with start(train_slowly, options, said=tmp_path / "said") as process:
        while not folder.last.exists():
            assert process.is_alive(), (tmp_path / "said").read_text()
            time.sleep(0.01)
        process.kill()
    done = len(metrics(folder))
    assert 1 <= done < 12
    (folder.path / ".last.safetensors.x.timm-gam.tmp").touch()  # as a write in progress leaves it
    assert main(["--resume", str(folder.path)]) == 0
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]
    assert len(metrics(folder)) == 12
    whole = train_quietly(replace(recipe, data_dir=str(photos)), tmp_path / "whole")
    assert_same_run(folder, whole)


def test_checkpoints_are_written_by_time_and_resume_exactly_whatever_is_on_disk(
    longer: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed between two writes loses time only."""
    recipe = rarely_saved(photos)
    update, calls = Trainer._update, []
    saved: list[int] = []

    def slow(path: Path, position: object, *rest: object) -> None:
        saved.append(position.epoch)  # type: ignore[attr-defined]
        save_state(path, position, *rest)  # type: ignore[arg-type]

    def dies(self: Trainer, *arguments: object) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 8:  # in the third epoch
            raise Stop
        return update(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_state", slow)
        patch.setattr(saving, "SECONDS", 0.0)
        patch.setattr(saving, "_SHARE", 0.0)  # no write is quick enough
        patch.setattr(Trainer, "_update", dies)
        with pytest.raises(Stop):
            train_quietly(recipe, tmp_path / "run")
        assert saved == []
        assert len(metrics(RunFolder(tmp_path / "run"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(saving, "SECONDS", 0.0)
        patch.setattr(saving, "_SHARE", float("inf"))  # every one is
        patch.setattr(saving, "save_state", slow)
        assert_same_run(train_quietly(recipe, tmp_path / "often"), longer)
        assert len(saved) == 12, "after every update"


def test_a_best_epoch_written_before_a_state_that_was_not_is_kept(
    longer: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(rarely_saved(photos), save_every=1)

    def dies(path: Path, position: saving.Position, *rest: object) -> None:
        if position.epoch >= 1 and position.best_epoch == position.epoch and not position.update:
            raise Stop  # the new best weights are there, the state is older
        save_state(path, position, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_state", dies)
        with pytest.raises(Stop):
            train_quietly(recipe, tmp_path / "run")
    assert_same_run(train_quietly(recipe, tmp_path / "run", resume=True), longer)


def test_trains_off_the_main_thread(uninterrupted: RunFolder, photos: Path, tmp_path: Path) -> None:
    """As a notebook's server or a job queue does; Python takes signal handlers on the main thread only."""
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(train_quietly, eventful(photos), tmp_path / "run").result()
    assert_same_run(folder, uninterrupted)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(
    uninterrupted: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Objective.forward, []

    def breaks(self: Objective, *arguments: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return forward(self, *arguments) * (float("nan") if len(calls) == 8 else 1.0)

    recipe = replace(eventful(photos), save_every=0)  # 6 forward passes an epoch: the second one breaks
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", breaks)
        with pytest.raises(DivergedError, match="the loss is nan in epoch 2, update 1: lower --lr"):
            train_quietly(recipe, tmp_path / "run")
    assert len(metrics(RunFolder(tmp_path / "run"))) == 1
    assert_same_run(train_quietly(recipe, tmp_path / "run", resume=True), uninterrupted)


def test_a_full_disk_keeps_the_last_state(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    folder = RunFolder(tmp_path / "run")
    small = ["--data-dir", str(photos), "--output", str(folder.path), "--config", str(tmp_path / "r.yaml")]
    (tmp_path / "r.yaml").write_text(small_recipe(save_every=1).as_yaml())
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stop):
            main(small)
    good = folder.state.read_bytes()
    size = len(good) // 2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # writes beyond it fail as on a full disk
    try:
        capsys.readouterr()
        assert main(["--resume", str(folder.path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: cannot write")
    assert folder.state.read_bytes() == good
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]
    assert main(["--resume", str(folder.path)]) == 0


def test_other_images_or_a_damaged_state_are_refused(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data_dir=str(photos), epochs=1)
    folder = train_quietly(recipe, tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run already"):
        train_quietly(recipe, folder.path)
    other = write_shapes(tmp_path / "other", classes=4, images=9)
    with pytest.raises(RunFolderError, match="fingerprint"):
        train_quietly(replace(recipe, data_dir=str(other)), folder.path, resume=True)
    whole = folder.state.read_bytes()
    folder.state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match="not the state of this run"):
        train_quietly(recipe, folder.path, resume=True)
    folder.state.unlink()
    with pytest.raises(RunFolderError, match="without --resume"):
        train_quietly(recipe, folder.path, resume=True)
