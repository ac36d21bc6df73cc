"""Two gloo processes: what one computes, exactly gathered, by torchrun; and an end when one of them dies."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eval import RetrievalEvaluator
from tests.helpers import free_port
from tests.processes import start_command
from tests.timm_gam.train.helpers import Stop, losses, metrics, small_recipe, stop_after, train_quietly, write_shapes
from timm_gam.core import DataError, World
from timm_gam.data import ImageSet, read_folder
from timm_gam.images import resolve_preprocessing
from timm_gam.models import load_model
from timm_gam.train import VALIDATION_METRICS, Recipe, RunFolder, split_for_training, validate
from timm_gam.train.checks import check_batch
from timm_gam.train.data import read_training_data

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]


def torchrun(recipe: Recipe, path: Path) -> subprocess.Popen[str]:
    config = path.with_suffix(".yaml")
    config.write_text(recipe.as_yaml())
    command = [*TORCHRUN, "timm_gam.train", "--config", str(config), "--output", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on, 9 to validate on, 6 to test on: 9 do not divide by 2."""
    return write_shapes(tmp_path_factory.mktemp("data") / "uneven", classes=3, images=13)


def test_two_processes_compute_what_one_does(uneven: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data_dir=str(uneven), val_share=0.3, epochs=2, batch_size=4, accumulate=2, lr=0.01)
    process = torchrun(recipe, tmp_path / "two")
    one = train_quietly(recipe, tmp_path / "one")
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert out.count("epoch 1/2") == 1  # only the first process speaks
    two = RunFolder(tmp_path / "two")
    assert len(losses(one)) == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert (tmp_path / "two" / "evaluation.json").exists()
    assert [scored_alone(two.last, read_folder(uneven), recipe)[name] for name in VALIDATION_METRICS] == [
        float(metrics(two)[-1][f"val_{name}"]) for name in VALIDATION_METRICS
    ]


def scored_alone(weights: Path, images: ImageSet, recipe: Recipe) -> dict[str, float]:
    """Validation of these weights in one process: no image twice, none left out."""
    split = split_for_training(images, recipe.val_share)
    assert len(split.validation) == 9
    model = load_model(recipe.model, checkpoint=weights).model
    preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)
    alone = World(0, 1, torch.device("cpu"))
    return validate(model, RetrievalEvaluator(), images, split, preprocessing, recipe, alone)


def test_a_process_that_dies_ends_the_run_with_a_message(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(small_recipe(data_dir=str(uneven), epochs=100_000).as_yaml())
    options = ["--config", str(config), "--output", str(tmp_path / "run")]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # as torchrun sets them
    folder = RunFolder(tmp_path / "run")
    with (
        start_command("timm_gam.train.__main__", options, tmp_path / "0", RANK="0", **common) as first,
        start_command("timm_gam.train.__main__", options, tmp_path / "1", RANK="1", **common) as second,
    ):
        while not folder.last.exists():
            assert first.is_alive() and second.is_alive(), (tmp_path / "0").read_text() + (tmp_path / "1").read_text()
            time.sleep(0.05)
        second.kill()
        first.join(60)
    said = (tmp_path / "0").read_text()
    assert first.exitcode == 2, said
    error = "error: process 0 of 2 lost the others: one of them ended; --resume goes on"
    assert [line for line in said.splitlines() if line.startswith("error")] == [error]
    stop_after(50, monkeypatch)
    done = len(losses(folder))
    with pytest.raises(Stop):
        train_quietly(small_recipe(data_dir=str(uneven), epochs=100_000), folder.path, resume=True)
    assert len(losses(folder)) > done


def test_what_ends_the_first_process_alone_is_said(uneven: Path, tmp_path: Path) -> None:
    """The others noticed before it had said so, and said that they lost it."""
    (tmp_path / "run").write_text("a file where the folder should be")
    options = ["--data-dir", str(uneven), "--output", str(tmp_path / "run"), "--config", str(tmp_path / "run.yaml")]
    (tmp_path / "run.yaml").write_text(small_recipe().as_yaml())
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with (
        start_command("timm_gam.train.__main__", options, tmp_path / "0", RANK="0", **common) as first,
        start_command("timm_gam.train.__main__", options, tmp_path / "1", RANK="1", **common) as second,
    ):
        first.join(60)
        second.join(60)
    assert (first.exitcode, second.exitcode) == (2, 2)
    assert (tmp_path / "0").read_text().startswith("error: cannot make the run folder")
    assert "error" not in (tmp_path / "1").read_text()


def test_a_batch_that_cannot_be_shared_is_refused(uneven: Path) -> None:
    recipe = small_recipe(data_dir=str(uneven), batch_size=7)
    data = read_training_data(recipe, read_folder(uneven))
    with pytest.raises(DataError, match="batch size 7 is no multiple of the 2 processes that share it"):
        check_batch(recipe, data, World(0, 2, torch.device("cpu")))
