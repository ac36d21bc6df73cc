"""Folders as people have them: what is a split, what is a class, and what is no image, as `datasets` sees it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_class_folders
from timm_gam.core import DataError
from timm_gam.data import FORMATS, choose_protocol, class_warnings, read_folder
from timm_gam.data.split_names import split_of_folder, splits_of_files


def in_splits(root: Path, *splits: str) -> Path:
    for split in splits:
        write_class_folders(root / split, classes=2, images=2)
    return root


def test_a_single_split_and_a_wrapping_folder_are_seen_through(tmp_path: Path) -> None:
    plain = read_folder(write_class_folders(tmp_path / "plain"))
    write_class_folders(tmp_path / "wrapped" / "archive" / "images")
    (tmp_path / "wrapped" / "archive" / "annotations").mkdir()
    (tmp_path / "wrapped" / "archive" / "annotations" / "0.xml").write_text("x")
    wrapped = read_folder(tmp_path / "wrapped")
    assert (wrapped.ids, wrapped.class_names, wrapped.splits) == (plain.ids, plain.class_names, None)
    assert wrapped.left_out == {".xml": 1}
    assert [path.is_file() for _, path in wrapped.reader.read(range(12))] == [True] * 12
    single = read_folder(in_splits(tmp_path / "single", "train"))
    assert (single.class_names, single.published_splits) == (("class0", "class1"), ("train",))
    assert len(choose_protocol(single).query) == 4


@pytest.mark.parametrize(
    ("folders", "published"),
    [
        (("Train", "Test"), ("test", "train")),
        (("train", "test", "dev"), ("validation", "test", "train")),
        (("training", "evaluation"), ("test", "train")),
        (("query", "Gallery"), ("gallery", "query")),
        (("train", "val"), ("train", "validation")),
    ],
)
def test_splits_by_the_names_that_datasets_knows(
    folders: tuple[str, ...], published: tuple[str, ...], tmp_path: Path
) -> None:
    images = read_folder(in_splits(tmp_path / "d", *folders))
    assert images.class_names == ("class0", "class1")
    assert set(images.published_splits) == set(published)
    assert Counter(images.splits) == dict.fromkeys(published, 4)
    for folder in folders:
        assert {images.ids[row].partition("/")[0] for row in choose_protocol(images, split=folder).query} == {folder}


def test_splits_are_those_of_datasets_itself(tmp_path: Path) -> None:
    root = in_splits(tmp_path / "d", "train", "my_test-1", "dev")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "hf"))
    ours = read_folder(root)
    assert Counter(ours.splits) == {split: len(rows) for split, rows in theirs.items()}


def test_only_needed_splits_are_read(tmp_path: Path) -> None:
    root = in_splits(tmp_path / "d", "train", "val", "test")
    images = read_folder(root, splits=("val",))
    assert set(images.splits) == {"validation"}
    assert len(choose_protocol(images, split="val").query) == 4
    with pytest.raises(DataError, match="no split 'holdout'; legal: all, test, train, validation"):
        choose_protocol(read_folder(root, splits=("holdout",)), split="holdout")


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "d")
    (root / "class0").rename(root / "train")
    (root / "class1").rename(root / "obj_train")
    images = read_folder(root)
    assert (images.class_names, images.splits) == (("class2", "obj_train", "train"), None)


def test_classes_that_hold_the_splits(tmp_path: Path) -> None:
    for label in ("bottle", "cable"):
        in_splits(tmp_path / "d" / label, "train", "test")
    images = read_folder(tmp_path / "d")
    assert images.class_names == ("bottle", "cable")
    assert Counter(images.splits) == {"train": 8, "test": 8}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "holdout"), "split folder train beside holdout, which are no splits"),
        (("train/class0/..", "photos"), "split folder train beside photos"),
    ],
)
def test_a_mixture_is_refused(folders: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for folder in folders:
        write_class_folders(tmp_path / "d" / folder.partition("/")[0], classes=2, images=1)
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path / "d")


def test_folders_beside_splits_are_left_out_and_counted(tmp_path: Path) -> None:
    images = read_folder(in_splits(tmp_path / "d", "train", "test", "unlabelled"))
    assert Counter(images.splits) == {"train": 4, "test": 4}
    assert images.left_out == {"images outside of the splits": 4}


def test_unknown_splits_are_noted(tmp_path: Path) -> None:
    [note] = read_folder(in_splits(tmp_path / "d", "2020", "2021")).notes
    assert "every class folder (2020, 2021) holds the same folders (class0, class1)" in note


def test_images_beside_the_classes_of_a_split(tmp_path: Path) -> None:
    root = in_splits(tmp_path / "d", "train", "test")
    (root / "train" / "class0" / "0.jpg").rename(root / "train" / "stray.jpg")
    with pytest.raises(DataError, match="are these classes or splits|stray.jpg"):
        read_folder(root)


def test_what_is_no_image_is_counted_by_kind(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "d")
    for label in ("class0", "class1"):
        (root / label / "@eaDir" / "0.jpg").mkdir(parents=True)
        (root / label / "@eaDir" / "0.jpg" / "THUMB.jpg").write_bytes(b"x")
    (root / "__MACOSX" / "class0").mkdir(parents=True)
    (root / "class0" / "album.jpg").mkdir()
    (root / "class0" / "IMG.HEIC").write_bytes(b"x")
    (root / "class0" / "._0.jpg").write_bytes(b"x")
    (root / "class0" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "class0" / "round").symlink_to(root)
    os.mkfifo(root / "class0" / "pipe.jpg")
    images = read_folder(root)
    assert len(images) == 12
    assert images.left_out == {
        ".heic": 1, "broken links": 1, "hidden": 1, "links to folders": 1, "no regular files": 1, "system folders": 3,
    }  # fmt: skip


def test_formats_that_people_have(tmp_path: Path) -> None:
    endings = {".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".jfif": "JPEG", ".WEBP": "WEBP", ".avif": "AVIF"}
    (tmp_path / "d" / "a").mkdir(parents=True)
    for ending, kind in endings.items():
        if kind in FORMATS:
            Image.new("RGB", (8, 8)).save(tmp_path / "d" / "a" / f"x{ending}", format=kind)
    assert len(read_folder(tmp_path / "d")) == sum(kind in FORMATS for kind in endings.values())


def test_an_archive_is_named_and_what_to_do_with_it(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "d" / "photos"), "zip", write_class_folders(tmp_path / "archived"))
    with pytest.raises(DataError, match=r"archives unpacked .*there is more: 1 \.zip"):
        read_folder(tmp_path / "d")


def test_one_class_is_a_warning(tmp_path: Path) -> None:
    images = read_folder(write_class_folders(tmp_path / "d", classes=1))
    assert len(class_warnings(images.labels, images.class_names)) == 1
    assert class_warnings(np.array([0, 1]), ("a", "b")) == []


def test_names_of_folders_and_files() -> None:
    assert [split_of_folder(name) for name in ("TRAIN", "val", "test2017", "cats", "trains")] == [
        "train", "validation", "test", None, None,
    ]  # fmt: skip
    assert splits_of_files(["a/train.parquet", "a/Test.parquet", "x.parquet"]) == (
        {"train": ["a/train.parquet"], "test": ["a/Test.parquet"]},
        ["x.parquet"],
    )
    assert splits_of_files(["any-00000-of-00002.parquet", "any-00001-of-00002.parquet"])[0].keys() == {"any"}
    assert splits_of_files(["one.parquet", "two.parquet"])[0].keys() == {"train"}
    with pytest.raises(DataError, match="stands for the splits train and test"):
        splits_of_files(["train-test.parquet"])
