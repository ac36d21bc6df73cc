"""A network that is scored on photos it was trained on, or on images prepared otherwise, says so; by real training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import eval as evaluation
from eval.retrieval import main
from hub.model.card import ModelPage
from hub.model.repository import write_model_repository
from hub.model.trained import read_trained_model
from tests.timm_gam.train.helpers import Stop, small_recipe, stop_after, train_quietly
from timm_gam.core import CheckpointError
from timm_gam.images import digest_images
from timm_gam.models import METADATA_KEY, TrainingRecord, load_model, read_training_record, shipped_names
from timm_gam.models.weights.shipped_weights import SHIPPED
from timm_gam.train import RunFolder, read_recipe, read_training_data, recipe_from


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two epochs at 32 pixels on `photos`: 24 train, 8 validate, 8 test."""
    return train_quietly(small_recipe(data_dir=str(photos)), tmp_path_factory.mktemp("runs") / "run")


def _score(*arguments: str | Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict]:
    file = tmp_path / "results.json"
    assert main([*map(str, arguments), "--workers", "0", "--results-file", str(file)]) == 0
    return capsys.readouterr().out, json.loads(file.read_text())["results"][0]


def test_scoring_what_it_was_trained_on_says_how_many(
    trained: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, record = _score("--model", trained.path, "--data-dir", photos, tmp_path=tmp_path, capsys=capsys)
    said = "24 of 40 photos are among those this network was trained on, 8 among those its epoch was chosen by"
    assert said in table
    assert record["training_images"] == {"trained": 24, "validated": 8, "images": 40}
    assert [said in line for line in record["warnings"]] == [True]
    # The same from the record that training wrote, whose test split the network never saw.
    (own,) = json.loads(trained.evaluation.read_text())["results"]
    assert own["training_images"] == {"trained": 0, "validated": 0, "images": 8}
    assert own["warnings"] == []
    trained_ids = {path.name for path in photos.rglob("*.png")}
    assert len(trained_ids) == 10, "the same names in every class: it is bytes that count"


def test_one_line_for_several_models(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    """Each warning once, after the models it is of."""
    assert main(["--model", "test_resnet*.corel", "--data-dir", str(photos), "--img-size", "32", "--workers", "0"]) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert "test_resnet_se.corel, and 1 more: " in warning, "the fourth is timm's own network, with weights of ours"
    assert warning.endswith("images are prepared otherwise than for these weights: size 32 x 32 for 64 x 64")


def test_the_digests_are_of_the_files(trained: RunFolder, photos: Path) -> None:
    record = read_training_record(trained.best)
    of_all = {int.from_bytes(hashlib.sha256(p.read_bytes()).digest()[:8]) for p in photos.rglob("*.png")}
    seen = [*record.trained.tolist(), *record.validated.tolist()]
    assert len(set(seen)) == 32 and set(seen) < of_all
    assert np.array_equal(read_training_record(trained.last).trained, record.trained)


def test_renamed_copies_are_known_and_other_photos_are_not(
    trained: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    for path in photos.rglob("*.png"):
        to = copy / f"other-{path.parent.name}" / f"renamed-{path.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    table, _ = _score("--model", trained.path, "--data-dir", copy, tmp_path=tmp_path, capsys=capsys)
    assert "24 of 40 photos are among those" in table
    for path in copy.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    table, record = _score("--model", trained.path, "--data-dir", copy, tmp_path=tmp_path, capsys=capsys)
    assert "warning" not in table
    assert record["training_images"] == {"trained": 0, "validated": 0, "images": 40}


def test_a_resumed_run_and_one_that_starts_from_it_keep_them(
    trained: RunFolder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    for path in photos.rglob("*.png"):
        to = other / path.relative_to(photos)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes() + b"\0")
    start = shutil.copy(trained.best, tmp_path / "start.safetensors")
    recipe, later = small_recipe(data_dir=str(other), start=str(start)), RunFolder(tmp_path / "later")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stop):
            train_quietly(recipe, later.path)
    expected = read_training_record(later.best)
    assert len(expected.trained) == 48 and len(expected.validated) == 16
    assert set(read_training_record(start).trained.tolist()) < set(expected.trained.tolist())
    Path(start).unlink()
    train_quietly(recipe, later.path, resume=True)
    assert np.array_equal(read_training_record(later.last).trained, expected.trained)


@pytest.mark.parametrize("half", [False, True])
def test_what_is_published_carries_them_and_is_the_same_bytes_again(
    trained: RunFolder, photos: Path, tmp_path: Path, half: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read_trained_model("test_resnet_gam.shapes", trained.path)
    for name in ("once", "again"):
        write_model_repository(tmp_path / name, model, ModelPage("owner/name", "apache-2.0", None, None), half=half)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "again")]
    assert weights[0] == weights[1]
    with safe_open(tmp_path / "once" / "model.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"format", METADATA_KEY}
    name = f"local-dir:{tmp_path / 'once'}"
    table, record = _score("--model", name, "--data-dir", photos, tmp_path=tmp_path, capsys=capsys)
    assert "24 of 40 photos are among those" in table
    assert record["preprocessing"]["input_size"] == [3, 32, 32]


def test_a_checkpoint_brings_its_own_preprocessing(
    trained: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copy(trained.best, tmp_path / "moved.safetensors")
    for name in (f"test_resnet_gam={trained.best}", f"test_resnet_gam={moved}"):
        table, record = _score("--model", name, "--data-dir", photos, tmp_path=tmp_path, capsys=capsys)
        assert record["preprocessing"]["input_size"] == [3, 32, 32]
        assert "prepared" not in table
    table, record = _score(
        "--model", name, "--data-dir", photos, "--img-size", "48", "--crop-pct", "0.9", tmp_path=tmp_path, capsys=capsys
    )
    said = "images are prepared otherwise than for these weights: size 48 x 48 for 32 x 32, crop 0.9 for 0.95"
    assert said in table and said in record["warnings"][-1]
    result = evaluation.evaluate(load_model("test_resnet_gam", checkpoint=moved), str(photos))
    assert result.facts.preprocessing.input_size == (3, 32, 32)
    assert "24 of 40 photos" in result._repr_html_()


def test_a_run_from_before_files_said_so_still_brings_its_size(
    trained: RunFolder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained.path, old)
    save_file(load_file(trained.best), old / "best.safetensors")
    for name in (str(old), f"test_resnet_gam={old / 'best.safetensors'}"):
        table, record = _score("--model", name, "--data-dir", photos, tmp_path=tmp_path, capsys=capsys)
        assert record["preprocessing"]["input_size"] == [3, 32, 32]
        assert record["training_images"] is None
        assert "warning" not in table
    bare = shutil.copy(old / "best.safetensors", tmp_path / "bare.safetensors")
    name = f"test_resnet_gam={bare}"
    table, record = _score("--model", name, "--data-dir", photos, tmp_path=tmp_path, capsys=capsys)
    assert "'bare.safetensors' does not say how images are prepared for it" in table and "64 x 64" in table
    table, _ = _score("--model", name, "--data-dir", photos, "--img-size", "32", tmp_path=tmp_path, capsys=capsys)
    assert "warning" not in table, "whoever names a size knows it"


def test_over_two_million_images_are_not_kept_and_that_is_said() -> None:
    record = TrainingRecord({}, np.arange(2_000_001, dtype=np.uint64))
    assert not record.keeps_images and record.as_plain() == {}
    assert TrainingRecord({}, np.arange(3, dtype=np.uint64)).keeps_images


@pytest.mark.parametrize(
    "value",
    [
        "no JSON",
        "[]",
        '{"preprocessing": 1}',
        '{"trained_images": "*"}',
        '{"trained_images": "AAAA"}',
        '{"trained_images": 5}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused(trained: RunFolder, tmp_path: Path, value: str) -> None:
    file = tmp_path / "bad.safetensors"
    save_file(load_file(trained.best), file, {METADATA_KEY: value})
    with pytest.raises(CheckpointError, match="the training record in .* cannot be read"):
        read_training_record(file)


def test_a_record_sets_nothing_but_preprocessing(trained: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    plain = {"preprocessing": {"input_size": [3, 40, 40], "classifier": "conv1", "architecture": "resnet50"}}
    save_file(load_file(trained.best), file, {METADATA_KEY: json.dumps(plain)})
    cfg = load_model("test_resnet_gam", checkpoint=file).model.pretrained_cfg
    assert cfg["input_size"] == (3, 40, 40)
    assert cfg["classifier"] == "fc" and cfg["architecture"] == "test_resnet_gam"


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_know_their_images(name: str, coreldb: Path) -> None:
    """From the recipe, the split and the files of CorelDB: the very images whose fingerprint the record has."""
    training = SHIPPED / name / "training"
    recipe = {**read_recipe(training / "config.yaml"), "data_dir": str(coreldb)}
    data = read_training_data(recipe_from(recipe, name))
    record = read_training_record(SHIPPED / name / "model.safetensors")
    some = {"trained": data.split.train[::200], "validated": data.split.validation[::100]}
    for what, rows in some.items():
        assert np.isin(digest_images(data.images, rows).shortened(), getattr(record, what)).all()
    counts = json.loads((training / "data.json").read_text())["images"]
    assert (len(record.trained), len(record.validated)) == (counts["train"], counts["validation"])
    assert yaml.safe_load((training / "config.yaml").read_text())["img_size"] == record.preprocessing["input_size"][1]
