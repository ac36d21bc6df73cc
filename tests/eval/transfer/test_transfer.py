"""The transfer experiment: from images to records, its wide networks, its refusals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import timm_gam  # noqa: F401
from eval.transfer.__main__ import main
from tests.helpers import write_class_folders
from tests.processes import start
from tests.timm_gam.images.test_limits import scan_bomb

ARMS = ("plain", *(f"{kind}-{start}" for kind in ("se", "cbam", "gam") for start in ("identity", "usual")))
FILES = ("--pretrain-epochs", "1", "--lrs", "0.05")
RESIDENT = (*FILES, "--resident", "--common-lr", "0.02")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("photos"), classes=6, images=10, side=32)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text("epochs: 1\nbatch_size: 8\nimg_size: 32\ncolor_jitter: 0\nworkers: 0\ndevice: cpu\n")
    return path


def _run(photos: Path, recipe: Path, output: Path, *options: str) -> int:
    common = ("--config", str(recipe), "--data-dir", str(photos), "--output", str(output), "--seeds", "0")
    return main([*common, *options])


def _records(output: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((output / "records").glob("*.json"))}


@pytest.mark.parametrize("options", [FILES, RESIDENT], ids=["files", "resident"])
def test_every_arm_from_images_to_records(
    photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert _run(photos, recipe, tmp_path, *options) == 0
    records = _records(tmp_path)
    assert set(records) == {
        "pretrain-test_resnet-0", *(f"final-{arm}-0" for arm in ARMS), *(f"tune-{arm}-1000-lr0.05" for arm in ARMS)
    }  # fmt: skip
    data = json.loads((tmp_path / "data.json").read_text())
    assert not set(data["pretrain_classes"]) & set(data["classes"])
    for arm in ARMS:
        final = records[f"final-{arm}-0"]
        assert len(final["test"]["map"]) == len(data["test_labels"]) == data["images"]["test"]
        assert final["start"] == "pretrain-test_resnet-0"
        assert final["lr"] == (0.05 if options is FILES else 0.02)
        assert ("test_gates_frozen" in final) == ("test_gates_shuffled" in final) == (arm != "plain")
        assert "test" not in records[f"tune-{arm}-1000-lr0.05"]
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())

    # The same command has nothing left to do; a lost record is made again, and of resident runs with the same numbers.
    lost = tmp_path / "records" / "final-gam-identity-0.json"
    lost.unlink()
    (tmp_path / "work" / "final-plain-0").mkdir(parents=True)  # of a run that was ended when its record was written
    capsys.readouterr()
    assert _run(photos, recipe, tmp_path, *options) == 0
    *made, last = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in made] == [lost.stem] and "transfer_table.py --pack" in last
    assert json.loads(lost.read_text())["test"] == records[lost.stem]["test"]
    assert not list((tmp_path / "work").iterdir())


def test_time_is_up(photos: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.transfer import resident

    assert _run(photos, recipe, tmp_path, *RESIDENT, "--time-limit", "1000") == 0
    whole = _records(tmp_path)
    for name in ("final-gam-usual-0", "tune-plain-1000-lr0.05"):
        (tmp_path / "records" / f"{name}.json").unlink()
    # Time is up within the first run that is missing: no record of it is left, and the next one never begins.
    monkeypatch.setattr(resident, "_time", lambda: float("inf"))
    assert _run(photos, recipe, tmp_path, *RESIDENT, "--time-limit", "1000") == 0
    assert "final-gam-usual-0" not in _records(tmp_path)
    monkeypatch.undo()
    assert _run(photos, recipe, tmp_path, *RESIDENT) == 0
    again = _records(tmp_path)
    assert set(again) == set(whole)
    assert again["final-gam-usual-0"]["test"] == whole["final-gam-usual-0"]["test"]


def in_the_background(argv: list[str]) -> int:
    """The experiment as a shell starts it there: it ignores Ctrl-C; its runs note it all the same."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return main(argv)


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
@pytest.mark.parametrize("whom", ["group", "parent"])
def test_runs_side_by_side_end_together(photos: Path, recipe: Path, tmp_path: Path, whom: str) -> None:
    common = ["--config", str(recipe), "--data-dir", str(photos), "--output", str(tmp_path), "--jobs", "2"]
    said = tmp_path / "said"
    with start(in_the_background, [*common, "--pretrain-epochs", "100000"], said=said) as process:
        while len(list(tmp_path.glob("work/*/metrics.csv"))) < 2:
            assert process.is_alive(), said.read_text()
            time.sleep(0.05)
        assert process.pid is not None
        if whom == "group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGTERM)
        process.join(300)
    assert "the same command goes on" in said.read_text()
    assert process.exitcode == (130 if whom == "group" else 143)
    assert len(list(tmp_path.glob("work/*/state.safetensors"))) == len(list(tmp_path.glob("work/*"))) == 2


def test_an_arm_that_diverges_is_recorded(photos: Path, recipe: Path, tmp_path: Path) -> None:
    assert _run(photos, recipe, tmp_path, *FILES, "--resident", "--common-lr", "1e30") == 0
    record = _records(tmp_path)["final-plain-0"]
    assert "loss is" in record["diverged"]
    assert record["val_map"] == 0


def test_other_images_are_refused(
    photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.json").write_text("{}")
    assert _run(photos, recipe, tmp_path, *RESIDENT) == 2
    assert "other images" in capsys.readouterr().err


@pytest.mark.parametrize("options", [FILES, RESIDENT], ids=["files", "resident"])
def test_what_an_image_may_take_to_decode(
    options: tuple[str, ...], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=6, images=10, side=32)
    for folder in photos.iterdir():
        (folder / "0.jpg").write_bytes(scan_bomb(11, side=32))
    assert _run(photos, recipe, tmp_path / "out", *options, "--max-scans", "10") == 2
    error = capsys.readouterr().err
    assert "a JPEG of 11 scans, 10 are decoded" in error
    assert error.count("\n") == 1


def test_what_resident_cannot_do_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\nbatch_size: 8\nimg_size: 32\nmixup: 0.2\ncolor_jitter: 0\n")
    assert _run(photos, recipe, tmp_path / "out", *RESIDENT) == 2
    assert "mixup is 0.2" in capsys.readouterr().err
    assert _run(photos, recipe, tmp_path / "out", *FILES, "--graphs") == 2
    assert "--resident" in capsys.readouterr().err


def test_records_that_are_not_of_these_runs_are_refused_and_stay(
    photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(photos, recipe, tmp_path, *RESIDENT) == 0
    final = tmp_path / "records" / "final-plain-0.json"
    whole = final.read_bytes()
    others = [
        (("--pretrain-epochs", "1", "--lrs", "0.05", "--common-lr", "0.02"), "--resident"),
        ((*RESIDENT, "--pretrain-epochs", "2"), "epochs = 1, not 2"),
        ((*RESIDENT, "--common-lr", "0.01"), "lr = 0.02, not 0.01"),
        ((*RESIDENT, "--lrs", "0.05", "nan"), "lr is nan"),
    ]
    for options, said in others:
        capsys.readouterr()
        assert _run(photos, recipe, tmp_path, *options) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    for damaged in (b"", whole[:200], b"[]", b"{}", whole.replace(b"final-plain-0", b"final-plain-1")):
        final.write_bytes(damaged)
        assert _run(photos, recipe, tmp_path, *RESIDENT) == 2
        assert "remove it, and the same command makes it again" in capsys.readouterr().err
        assert final.read_bytes() == damaged
    final.unlink()
    (tmp_path / "starts" / "test_resnet-0.safetensors").rename(tmp_path / "start")
    assert _run(photos, recipe, tmp_path, *RESIDENT) == 2
    assert "remove the record 'pretrain-test_resnet-0.json'" in capsys.readouterr().err
    (tmp_path / "data.json").write_text("half")
    assert _run(photos, recipe, tmp_path, *RESIDENT) == 2
    assert "name another --output" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "count", "said"), [(1, 10, "at least 4"), (3, 10, "at least 4"), (4, 6, "batch")])
def test_too_few_images_are_refused_before_the_first_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int, count: int, said: str
) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=classes, images=count, side=32)
    large = tmp_path / "recipe.yaml"
    large.write_text(recipe.read_text().replace("batch_size: 8", "batch_size: 16"))
    assert _run(photos, large, tmp_path / "out", *RESIDENT) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_seed_of_tuning_is_refused(
    photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(photos, recipe, tmp_path / "out", *RESIDENT, "--seeds", "0", "1000") == 2
    assert "seed 1000" in capsys.readouterr().err


def _cost(name: str) -> tuple[int, int]:
    model = timm.create_model(name, num_classes=40, device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 64, 64, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("plain", ["resnet18", "resnet50", "test_resnet"])
def test_the_wide_network_costs_what_gam_costs(plain: str) -> None:
    for wide, gam in zip(_cost(f"{plain}_wide"), _cost(f"{plain}_gam"), strict=True):
        assert wide == pytest.approx(gam, rel=0.02)


def test_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--data-dir" in capsys.readouterr().err
