"""Data to train on: faults are found before the first epoch, and a repair of what was not trained on costs nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from eval import RetrievalEvaluator
from tests.shapes import draw_shapes
from tests.timm_gam.train.helpers import losses, small_recipe, train_quietly, write_shapes
from timm_gam.core import DataError, RunFolderError
from timm_gam.data import read_folder
from timm_gam.train import RunFolder, read_training_data, split_for_training, train
from timm_gam.train.__main__ import main

SPLITS = {"train": 6, "val": 3, "test": 3}


def write_splits(root: Path, classes: int = 3, **splits: int) -> Path:
    """SPLIT/CLASS/NUMBER.png, no image twice."""
    whole = write_shapes(root.with_name(f"{root.name}-whole"), classes=classes, images=sum(splits.values()))
    for folder in sorted(whole.iterdir()):
        first = 0
        for split, count in splits.items():
            (root / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[first : first + count]:
                shutil.copy(path, root / split / folder.name)
            first += count
    return root


def damage(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[:150])
    return whole


def first_of(folder: Path) -> Path:
    return min(folder.rglob("*.png"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_of_any_split_is_found_before_anything_is_written(
    split: str, workers: int, tmp_path: Path
) -> None:
    root = write_splits(tmp_path / "d", **SPLITS)
    damage(first_of(root / split))
    with pytest.raises(DataError, match=rf"'d' .*: 1 image cannot be read, the first is '{split}/") as caught:
        train_quietly(small_recipe(data_dir=str(root), workers=workers), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_kind_of_fault_is_named_at_once(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "d", train=6, val=1, test=1)
    for path in sorted((root / "train").rglob("*.png"))[:2]:
        damage(path)
    alone = root / "train" / "zebra" / "0.png"
    alone.parent.mkdir()
    shutil.copy(first_of(root / "test"), alone)
    with pytest.raises(DataError) as caught:
        train_quietly(small_recipe(data_dir=str(root)), tmp_path / "run")
    for part in (
        "1 class has one image ('zebra')",
        "no class has two validation images",
        "no class has two test images",
        "2 images cannot be read, the first is 'train/",
    ):
        assert str(caught.value).count(part) == 1


def test_a_repair_of_the_test_split_goes_on_and_one_of_the_training_images_does_not(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "d", **SPLITS)
    recipe = small_recipe(data_dir=str(root), epochs=1)
    folder = train_quietly(recipe, tmp_path / "run")
    before, learned = json.loads(folder.data.read_text()), folder.best.read_bytes()
    folder.evaluation.unlink()
    test = first_of(root / "test")
    whole = damage(test)
    with pytest.raises(DataError, match="1 image cannot be read, the first is 'test/"):
        train_quietly(recipe, folder.path, resume=True)
    test.unlink()
    train_quietly(recipe, folder.path, resume=True)
    after = json.loads(folder.data.read_text())
    assert (after["trained_on"], after["start"]) == (before["trained_on"], before["start"])
    assert (after["images"]["test"], before["images"]["test"]) == (8, 9)
    assert after["fingerprint"] != before["fingerprint"]
    assert folder.evaluation.exists()
    assert folder.best.read_bytes() == learned
    test.write_bytes(whole)
    shutil.copy(first_of(root / "test"), first_of(root / "val"))
    with pytest.raises(RunFolderError, match="was trained on images with fingerprint"):
        train_quietly(recipe, folder.path, resume=True)


def test_a_run_of_an_earlier_version_is_compared_by_all_of_its_images(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "d", **SPLITS)
    recipe = small_recipe(data_dir=str(root), epochs=1)
    folder = train_quietly(recipe, tmp_path / "run")
    data = json.loads(folder.data.read_text())
    del data["trained_on"]
    folder.data.write_text(json.dumps(data))
    train_quietly(recipe, folder.path, resume=True)
    folder.data.write_text(json.dumps(data))
    first_of(root / "test").unlink()
    with pytest.raises(RunFolderError, match="was trained on images with fingerprint"):
        train_quietly(recipe, folder.path, resume=True)


def test_classes_are_those_that_train(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "d", **SPLITS)
    trained = sorted(path.name for path in (root / "train").iterdir())
    before = read_training_data(small_recipe(data_dir=str(root)))
    recipe = small_recipe(data_dir=str(root), epochs=1)
    folder = train_quietly(recipe, tmp_path / "run")
    shutil.copytree(min((root / "test").iterdir()), root / "test" / "a new one")
    data = read_training_data(recipe)
    assert (data.classes, list(data.class_names)) == (3, trained)
    assert data.images.class_names == (*trained, "a new one")
    for row in data.split.rows.tolist():
        assert data.images.ids[row].split("/")[1] == data.images.class_names[data.images.labels[row]]
    assert [before.images.ids[row] for row in before.split.train] == [data.images.ids[row] for row in data.split.train]
    train_quietly(recipe, folder.path, resume=True)  # nothing that was trained on is new
    assert json.loads(folder.data.read_text())["class_names"] == trained
    known = json.loads(folder.data.read_text())
    folder.data.write_text(json.dumps({**known, "class_names": trained[::-1]}))
    with pytest.raises(RunFolderError, match="other classes than 'd' has now"):
        train_quietly(recipe, folder.path, resume=True)


def test_without_a_test_split_it_trains_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_splits(tmp_path / "d", train=6, val=4)
    recipe = small_recipe(data_dir=str(root), epochs=1)
    (tmp_path / "r.yaml").write_text(recipe.as_yaml())
    options = ["--config", str(tmp_path / "r.yaml"), "--output"]
    assert main([*options, str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    warning = "no test split, so there is no score at the end; --test-split takes one (validation)"
    assert said.index(f"warning: {warning}") < said.index("epoch 1/1")
    assert "no test split was scored" in said
    folder = RunFolder(tmp_path / "run")
    assert not folder.evaluation.exists()
    data = json.loads(folder.data.read_text())
    assert (data["images"], data["split_rule"]) == ({"train": 18, "validation": 12, "test": 0}, None)
    assert data["warnings"] == [warning]
    assert main([*options, str(tmp_path / "val"), "--test-split", "val"]) == 0
    record = json.loads(RunFolder(tmp_path / "val").evaluation.read_text())
    assert record["results"][0]["protocol"]["queries"] == 12
    assert json.loads(RunFolder(tmp_path / "val").data.read_text())["images"]["test"] == 12


def test_which_splits_train_validate_and_test(tmp_path: Path) -> None:
    def sizes(root: Path, test_split: str | None) -> tuple[int, int, int]:
        split = read_training_data(small_recipe(data_dir=str(root), test_split=test_split)).split
        return len(split.train), len(split.validation), 0 if split.test is None else len(split.test.query)

    three = write_splits(tmp_path / "three", train=8, dev=4, test=2)
    assert [sizes(three, name) for name in (None, "test", "val", "none")] == [
        (24, 12, 6), (24, 12, 6), (18, 6, 12), (24, 12, 0),
    ]  # fmt: skip
    plain = write_shapes(tmp_path / "plain", classes=3, images=20)
    assert [sizes(plain, name) for name in (None, "test", "none")] == [(42, 6, 12), (42, 6, 12), (54, 6, 0)]
    for root, name in ((three, "train"), (three, "holdout"), (plain, "val"), (plain, "all")):
        with pytest.raises(DataError, match=rf"--test-split {name} came, .* legal: .*none"):
            sizes(root, name)
    with pytest.raises(DataError, match="has no split 'train'"):
        sizes(write_splits(tmp_path / "odd", query=4, gallery=4), None)


def test_a_split_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    """Public data sets often have a test split without labels."""
    shapes = draw_shapes(8)
    images = [picture for _, picture in shapes.reader.read(range(24))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    for split, labels in (("train", shapes.labels[:24].tolist()), ("test", [-1] * 24)):
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(tmp_path / "d" / f"{split}-00000-of-00001.parquet")
    recipe = small_recipe(data_dir=str(tmp_path / "d"))
    with pytest.raises(DataError, match="row 0 of split 'test' of 'd' has label -1; .* --test-split"):
        read_training_data(recipe)
    data = read_training_data(replace(recipe, test_split="none"))
    assert (len(data.split.train), len(data.split.validation), data.split.test) == (18, 6, None)


def test_one_class_is_a_warning_at_the_start_and_in_the_records(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "d", classes=1, images=20)
    (root / "notes.txt").write_text("x")
    said: list[str] = []
    recipe = small_recipe(data_dir=str(root), epochs=1)
    train(recipe, tmp_path / "run", RetrievalEvaluator(), log=said.append)
    folder = RunFolder(tmp_path / "run")
    data = json.loads(folder.data.read_text())
    assert data["warnings"][0].startswith("only one class (")
    assert data["left_out"] == {".txt": 1}
    assert f"warning: {data['warnings'][0]}" in said
    scored = json.loads(folder.evaluation.read_text())["results"][0]["data"]
    assert scored["warnings"][0] == data["warnings"][0]
    assert len(losses(folder)) == 1


def test_configurations_and_image_roots_are_keys_of_the_recipe(tmp_path: Path) -> None:
    photos = read_folder(write_shapes(tmp_path / "elsewhere", classes=2, images=10))
    (tmp_path / "d").mkdir()
    text = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                              "label": datasets.Value("string")})  # fmt: skip
    for name, count in (("small", 10), ("large", 20)):
        rows = [{"bytes": None, "path": str(tmp_path / "elsewhere" / i)} for i in photos.ids[-count:]]
        labels = [photos.class_names[label] for label in photos.labels[-count:]]
        datasets.Dataset.from_dict({"image": rows, "label": labels}, features=text).to_parquet(
            tmp_path / "d" / f"{name}.parquet"
        )
    configs = "".join(f"- config_name: {n}\n  data_files: {n}.parquet\n" for n in ("small", "large"))
    (tmp_path / "d" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    recipe = small_recipe(data_dir=str(tmp_path / "d"), epochs=1)
    with pytest.raises(DataError, match="--config-name: small, large"):
        read_training_data(recipe)
    recipe = replace(recipe, config_name="large")
    with pytest.raises(DataError, match="--image-root"):
        train_quietly(recipe, tmp_path / "run")
    folder = train_quietly(replace(recipe, image_root=str(tmp_path / "elsewhere")), tmp_path / "run")
    assert sum(json.loads(folder.data.read_text())["images"].values()) == 20


def test_splits_by_the_rule_do_not_depend_on_what_is_asked(tmp_path: Path) -> None:
    images = draw_shapes(20)
    default, named = split_for_training(images, 0.1), split_for_training(images, 0.1, "test")
    assert np.array_equal(default.rows, np.arange(len(images)))
    assert np.array_equal(default.train, named.train)
