"""The command line: a whole run's folder, every kind of bad input, the start weights."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import timm_gam
from tests.timm_gam.train.helpers import SMALL, Stop, metrics, small_recipe, stop_after, train_quietly, write_shapes
from timm_gam.models import read_safetensors, weights_digest
from timm_gam.train import Recipe, RunFolder, split_for_training, start_model
from timm_gam.train.__main__ import main
from timm_gam.train.output.run_folder import COLUMNS


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(Recipe(**{**SMALL, "epochs": 1}).as_yaml())
    return path


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_a_run_leaves_its_folder(
    photos: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    options = ("--config", config, "--data-dir", photos, "--epochs", 3, "--output", folder.path)
    assert run(*options) == 0
    said = capsys.readouterr()
    assert "epoch 3/3" in said.out
    assert "img/s" in said.out
    assert "24 train, 8 validation, 8 test" in said.out
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "best.safetensors", "config.yaml", "curves.png", "data.json", "environment.json", "evaluation.json",
        "last.safetensors", "metrics.csv", "state.safetensors",
    ]  # fmt: skip
    rows = metrics(folder)
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    with Image.open(folder.curves) as picture:
        assert picture.size == (1000, 400)
    data = json.loads(folder.data.read_text())
    assert data["images"] == {"train": 24, "validation": 8, "test": 8}
    assert data["start"] == {
        "kind": "scratch", "source": "scratch", "reference": None, "sha256": None, "gate_init": "paper"
    }  # fmt: skip
    assert len(data["class_names"]) == 4
    document = json.loads(folder.evaluation.read_text())
    jsonschema.validate(document, json.loads(files("eval.results").joinpath("results.schema.json").read_text()))
    (result,) = document["results"]
    assert result["protocol"]["queries"] == 8
    assert result["model"]["architecture"] == "test_resnet_gam"
    assert "read once, after training" in document["notes"][0]
    best = np.argmax([float(row["val_map"]) for row in rows]) + 1
    assert f"weights of epoch {best} of 3" in document["notes"][0]
    for path in (folder.best, folder.last):
        tensors = read_safetensors(path)
        assert tensors["fc.weight"].shape == (4, 96)
        assert all(t.dtype in (torch.float32, torch.int64) for t in tensors.values())
        timm.create_model("test_resnet_gam", num_classes=4).load_state_dict(tensors)


@pytest.fixture(scope="module")
def bad_inputs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[object], str]]:
    tmp_path = tmp_path_factory.mktemp("bad")
    data = ["--data-dir", photos]
    broken = write_shapes(tmp_path / "broken", classes=3, images=8)
    for path in sorted(broken.iterdir())[0].iterdir():
        path.write_bytes(path.read_bytes()[:100])
    single = write_shapes(tmp_path / "single", classes=3, images=8)
    for path in sorted(sorted(single.iterdir())[1].iterdir())[1:]:
        path.unlink()
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "bad.yaml").write_text("epochz: 3")
    (tmp_path / "file").write_text("")
    save_file(timm.create_model("test_resnet_se").state_dict(), tmp_path / "se.safetensors")
    return {
        "no data": ([], "name them with --data-dir"),
        "no folder": (["--data-dir", tmp_path / "nowhere"], "name a folder"),
        "model": ([*data, "--model", "test_resnet_gamm"], "near: test_resnet_gam"),
        "optimizer": ([*data, "--opt", "adamx"], "legal: timm.optim.list_optimizers()"),
        "batch": ([*data, "-b", "25"], "there are 24 to train on"),
        "accumulate": ([*data, "-b", "8", "--accumulate", "4"], "8 x 4 images"),
        "device": ([*data, "--device", "cuda:77"], "cannot be used"),
        "unreadable image": (["--data-dir", broken], "8 images cannot be read, the first is"),
        "one image": (["--data-dir", single], "1 class has one image"),
        "few images": (["--data-dir", write_shapes(tmp_path / "few", 3, 4)], "4 training images"),
        "pickle": ([*data, "--start-from", tmp_path / "pickle.safetensors"], "pickled"),
        "no start": ([*data, "--start-from", tmp_path / "none.safetensors"], "no file"),
        "other start": ([*data, "--start-from", tmp_path / "se.safetensors"], "is not for test_resnet_gam"),
        "unknown start": ([*data, "--start", "nonsense"], "no model 'nonsense'"),
        "freeze": ([*data, "--freeze", "layer7"], "legal: backbone"),
        "config": ([*data, "--config", tmp_path / "none.yaml"], "name a YAML file"),
        "output": ([*data, "--output", tmp_path / "file" / "run"], "cannot make the run folder"),
        "resume nothing": (["--resume", tmp_path / "nowhere"], "cannot read"),
        "resume with options": (["--resume", tmp_path / "x", "--lr", "1"], "legal beside it"),
        "aa": ([*data, "--aa", "nonsense"], "aa is 'nonsense'"),
        "compiler": ([*data, "--torchcompile", "nonesuch"], "nonesuch"),
        "one value": ([*data, "-b", "1", "--img-size", "16"], "a batch norm gets one value per channel"),
        "overflow": ([*data, "--lr", "1e37", "--attention-lr-scale", "1000"], "lower --lr"),
        "second order": ([*data, "--opt", "adahessian"], "second derivatives"),
        "needs CUDA": ([*data, "--opt", "fusedsgd"], "CUDA required"),
        "odd mixup": ([*data, "-b", "7", "--mixup", "0.2"], "pair images"),
        "gates": ([*data, "--model", "test_resnet", "--gate-init", "identity"], "no gates of ours"),
    }


CASES = [
    "no data", "no folder", "model", "optimizer", "batch", "accumulate", "device", "unreadable image", "one image",
    "few images", "pickle", "no start", "other start", "unknown start", "freeze", "config", "output",
    "resume nothing", "resume with options", "aa", "compiler", "gates", "odd mixup",
    "one value", "overflow", "second order", "needs CUDA",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str,
    bad_inputs: dict[str, tuple[list[object], str]],
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, message = bad_inputs[case]
    if not any(a in ("--config", "--resume") for a in arguments):
        arguments = ["--config", config, *arguments]
    if not any(a in ("--output", "--resume") for a in arguments):
        arguments = [*arguments, "--output", tmp_path / "run"]
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_an_unreadable_image_keeps_the_last_state(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, folder = write_shapes(tmp_path / "photos", classes=3, images=12), RunFolder(tmp_path / "run")
    options = ("--config", config, "--data-dir", photos, "--cache-images", 0, "--output", folder.path, "--epochs", 2)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stop):
            run(*options)
    good = folder.state.read_bytes()
    data = json.loads(folder.data.read_text())
    for path in photos.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:100])
    from timm_gam.data import read_folder
    from timm_gam.images import data_fingerprint, digest_images

    images, rows = read_folder(photos), np.arange(36)
    split = split_for_training(images, 0.1)
    decide = np.union1d(split.train, split.validation)
    for key, which in (("fingerprint", rows), ("trained_on", decide)):
        data[key] = data_fingerprint(images, which, digest_images(images, which))
    folder.data.write_text(json.dumps(data))  # the images went bad after the check of what they are
    capsys.readouterr()
    assert run("--resume", folder.path, "-j", 2) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot read image")
    assert len(said.splitlines()) == 1
    assert folder.state.read_bytes() == good


def test_starts(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = timm.create_model("test_resnet", num_classes=7)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    whole = timm.create_model("test_resnet_gam", num_classes=4)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    local = tmp_path / "local"
    local.mkdir()
    save_file(whole.state_dict(), local / "model.safetensors")
    cfg = {**whole.pretrained_cfg, "num_classes": 4}
    (local / "config.json").write_text(
        json.dumps({"architecture": "test_resnet_gam", "num_classes": 4, "pretrained_cfg": cfg}, default=list)
    )
    pixels = torch.randn(2, 3, 64, 64)
    recipe = small_recipe(start=str(tmp_path / "plain.safetensors"), gate_init="identity")
    model, start = start_model(recipe, 4)
    assert (start.kind, start.reference, start.gate_init) == ("backbone", "plain.safetensors", "identity")
    assert start.sha256 == weights_digest(plain.state_dict())
    assert torch.equal(model.eval().forward_features(pixels), plain.eval().forward_features(pixels))
    for source in (str(tmp_path / "whole.safetensors"), f"local-dir:{local}"):
        model, start = start_model(small_recipe(start=source), 4)
        assert (start.kind, start.source) == ("checkpoint", source)
        assert torch.equal(model.eval()(pixels), whole.eval()(pixels))
        model, _ = start_model(small_recipe(start=source), 5)
        assert torch.equal(model.eval().forward_features(pixels), whole.eval().forward_features(pixels))
        assert model(pixels).shape == (2, 5)
    model, start = start_model(small_recipe(model="test_resnet", start=str(tmp_path / "plain.safetensors")), 7)
    assert torch.equal(model.eval()(pixels), plain.eval()(pixels))
    one, _ = start_model(small_recipe(seed=1), 4)
    other, _ = start_model(small_recipe(seed=2), 4)
    again, _ = start_model(small_recipe(seed=1), 4)
    assert torch.equal(one(pixels), again(pixels))
    assert not torch.equal(one(pixels), other(pixels))


def test_the_papers_start_is_the_plain_networks_pretrained_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import timm_gam.train.start as start_module

    asked: list[str] = []

    def file(source: str) -> None:
        asked.append(source)
        raise timm_gam.HubError("offline")

    monkeypatch.setattr(start_module, "find_pretrained", file)
    for name in ("resnet50_gam", "resnet50_gam_g4", "resnet50_se", "resnet50_cbam", "test_resnet_gam"):
        with pytest.raises(timm_gam.HubError):
            start_model(Recipe(model=name), 4)
    assert asked == ["resnet50", "resnet50", "resnet50", "resnet50", "test_resnet"]


@pytest.mark.parametrize("changes", [
    {"amp": True, "channels_last": True}, {"amp": True, "amp_dtype": "float16"}, {"validate_every": 2},
    {"model": "test_vit", "img_size": None, "batch_size": 4}, {"cutmix": 1.0, "label_smoothing": 0.1, "clip_grad": 1.0},
    {"torchcompile": "eager"}, {"cache_images": 0, "workers": 1},
])  # fmt: skip
def test_options_train(changes: dict, photos: Path, tmp_path: Path) -> None:
    folder = train_quietly(small_recipe(data_dir=str(photos), **changes), tmp_path / "run")
    rows = metrics(folder)
    assert [bool(row["val_map"]) for row in rows] == [changes.get("validate_every") is None, True]
    assert folder.evaluation.exists()
