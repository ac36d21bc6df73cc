"""Data sets on the Hub, pulled by the real clients from a Hub on the loopback interface, downloaded and streamed."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from eval.retrieval import main
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from timm_gam.core import DataError
from timm_gam.data import ImageSet, read_folder, read_hub_dataset
from timm_gam.images import data_fingerprint, digest_images, load_image

STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["downloaded", "streamed"])
REPO = "me/photos"
pytestmark = [  # the library leaves files of its own open
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("closed_in_time"),
]


def write_table(path: Path, rows: list[tuple[bytes, str]], names: tuple[str, ...] | None = None) -> None:
    labels: Any = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
    values = [names.index(c) if names else c for _, c in rows]
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    images = [{"bytes": data, "path": None} for data, _ in rows]
    datasets.Dataset.from_dict({"image": images, "label": values}, features=features).to_parquet(path)


def fingerprint(images: ImageSet) -> str:
    rows = np.arange(len(images))
    return data_fingerprint(images, rows, digest_images(images, rows))


def fingerprint_of(images: ImageSet, split: str) -> str:
    rows = np.flatnonzero(np.array(images.splits) == split)
    return data_fingerprint(images, rows, digest_images(images, rows))


def in_splits(root: Path) -> None:
    for split, count in (("Train", 4), ("dev", 2), ("TEST", 2)):
        write_class_folders(root / split, classes=2, images=count)


def in_classes(root: Path) -> None:
    for label in ("bottle", "cable"):
        for split in ("train", "test"):
            shutil.move(write_class_folders(root / "x", classes=1, images=2) / "class0", root / label / split)
    (root / "x").rmdir()


def deep(root: Path) -> None:
    write_class_folders(root, classes=2)
    (root / "class0" / "a-b").mkdir()
    (root / "class0" / "a").mkdir()
    (root / "class0" / "0.jpg").rename(root / "class0" / "a-b" / "0.JPEG")
    (root / "class0" / "1.jpg").rename(root / "class0" / "a" / "1.jpg")


def beside_others(root: Path) -> None:
    write_class_folders(root, classes=2)
    (root / "README.md").write_text("---\nlicense: mit\n---\nPhotographs.")
    (root / "class0" / "notes.txt").write_text("x")
    (root / "class0" / "drawing.tga").write_bytes(b"x")
    (root / "__MACOSX" / "class0").mkdir(parents=True)
    (root / "__MACOSX" / "class0" / "0.jpg").write_bytes(b"x")


@STREAMING
@pytest.mark.parametrize(
    "write",
    [
        write_class_folders,
        lambda root: write_class_folders(root / "images"),
        lambda root: write_class_folders(root / "archive" / "photos"),
        lambda root: write_class_folders(root / "train"),
        lambda root: write_class_folders(root, classes=1),
        in_splits, in_classes, deep, beside_others,
    ],
    ids=[
        "plain", "wrapped", "wrapped twice", "train only", "one class", "splits", "classes of splits", "deep",
        "other files",
    ],
)  # fmt: skip
def test_a_repository_of_images_is_read_as_its_folder(
    write: Callable[[Path], Any], streaming: bool, hub: LoopbackHub, tmp_path: Path
) -> None:
    write(tmp_path / "d")
    hub.add("datasets", REPO, tmp_path / "d")
    folder, images = read_folder(tmp_path / "d"), read_hub_dataset(REPO, streaming=streaming)
    for name in ("ids", "class_names", "splits", "published_splits", "notes", "left_out"):
        assert getattr(images, name) == getattr(folder, name), name
    assert images.labels.tolist() == folder.labels.tolist()
    assert fingerprint(images) == fingerprint(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_class_folders_are_read_offline_once_they_were_downloaded(
    streaming: bool, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_splits(tmp_path / "d")
    hub.add("datasets", REPO, tmp_path / "d")
    test = read_hub_dataset(REPO, splits=("test",))
    hub.repositories.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    offline = read_hub_dataset(REPO, splits=("test",), streaming=streaming)
    assert (offline.ids, fingerprint_of(offline, "test")) == (test.ids, fingerprint_of(test, "test"))
    with pytest.raises(DataError, match="'me/photos' cannot be downloaded: .*"):
        read_hub_dataset(REPO)  # the training images were not pulled
    with pytest.raises(DataError):
        read_hub_dataset("me/others")
    assert len(hub.requests) == asked


def test_what_was_streamed_is_not_there_offline(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets", REPO, write_class_folders(tmp_path / "d"))
    read_hub_dataset(REPO, streaming=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'me/photos' cannot be downloaded"):
        read_hub_dataset(REPO, streaming=True)


@STREAMING
def test_only_needed_splits_of_a_repository_of_images_are_pulled(
    streaming: bool, hub: LoopbackHub, tmp_path: Path
) -> None:
    in_splits(tmp_path / "d")
    hub.add("datasets", REPO, tmp_path / "d")
    images = read_hub_dataset(REPO, streaming=streaming, splits=("test",))
    assert Counter(images.splits) == {"test": 4}
    assert images.published_splits == read_folder(tmp_path / "d").published_splits
    assert len(dict(images.reader.read([0, 3]))) == 2
    pulled = {
        r.rpartition("/resolve/")[2].partition("/")[2] for r in hub.requests if r.startswith("GET") and ".jpg" in r
    }
    assert {path.split("/")[0] for path in pulled} == {"TEST"}


@STREAMING
def test_one_class_is_a_warning_on_the_table(
    streaming: bool, hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("datasets", REPO, write_class_folders(tmp_path / "d", classes=1))
    options = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "--interval", "none", "-j", "1"]
    assert main([*options, "--dataset", REPO, *(["--streaming"] if streaming else [])]) == 0
    assert "warning   only one class ('class0')" in capsys.readouterr().out


@STREAMING
def test_images_beside_a_table_of_their_labels(streaming: bool, hub: LoopbackHub, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "d" / "train")
    lines = [f"class{n % 3}/{n // 3}.jpg,{'odd' if n % 2 else 'even'}" for n in range(12)]
    (tmp_path / "d" / "train" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    hub.add("datasets", REPO, tmp_path / "d")
    images = read_hub_dataset(REPO, streaming=streaming)
    assert images.class_names == ("even", "odd")
    assert [load_image(encoded, "x")[0].size for _, encoded in images.reader.read(range(12))] == [(40, 40)] * 12


@STREAMING
def test_a_web_data_set(streaming: bool, photos: list[tuple[bytes, str]], hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / "train-000.tar", "w") as tar:
        for number, (data, label) in enumerate(photos):
            for ending, content in ((".jpg", data), (".cls", label[-1].encode())):
                entry = tarfile.TarInfo(f"{number:04d}{ending}")
                entry.size = len(content)
                tar.addfile(entry, BytesIO(content))
    hub.add("datasets", REPO, tmp_path / "d")
    images = read_hub_dataset(REPO, streaming=streaming)
    assert (images.class_names, images.labels.tolist()) == (("0", "1", "2"), [0] * 4 + [1] * 4 + [2] * 4)
    assert [load_image(encoded, "x")[0].size for _, encoded in images.reader.read([0, 11])] == [(40, 40)] * 2


@STREAMING
@pytest.mark.parametrize("kind", ["parquet", "folders"])
def test_several_configurations(
    kind: str, streaming: bool, photos: list[tuple[bytes, str]], hub: LoopbackHub, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    for name, every in (("small", 2), ("large", 1)):
        if kind == "parquet":
            write_table(root / name / "train-00000-of-00001.parquet", photos[::every])
        else:
            write_class_folders(root / name, images=4 // every)
    where = "data_files: {0}/*.parquet" if kind == "parquet" else "data_dir: {0}"
    configs = "".join(f"- config_name: {name}\n  {where.format(name)}\n" for name in ("small", "large"))
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    hub.add("datasets", REPO, root)
    for name, count in (("small", 6), ("large", 12)):
        images = read_hub_dataset(REPO, streaming=streaming, config_name=name)
        assert Counter(images.class_names[label] for label in images.labels) == {
            f"class{n}": count // 3 for n in range(3)
        }
    with pytest.raises(DataError, match="several configurations; name one with --config-name: small, large"):
        read_hub_dataset(REPO, streaming=streaming)
    with pytest.raises(DataError, match="no such configuration; legal as --config-name: small, large"):
        read_hub_dataset(REPO, streaming=streaming, config_name="medium")


@STREAMING
def test_files_that_number_their_classes_differently(
    streaming: bool, photos: list[tuple[bytes, str]], hub: LoopbackHub, tmp_path: Path
) -> None:
    data = tmp_path / "d" / "data"
    parts = (photos[0::4], photos[1::4], photos[2::4], photos[3::4])
    write_table(data / "train-00000-of-00003.parquet", parts[0], ("class0", "class1", "class2"))
    write_table(data / "train-00001-of-00003.parquet", parts[1], ("class2", "class0", "class1"))
    write_table(data / "train-00002-of-00003.parquet", parts[2])
    write_table(data / "test-00000-of-00001.parquet", parts[3], ("new", "class2", "class1", "class0"))
    hub.add("datasets", REPO, tmp_path / "d")
    images = read_hub_dataset(REPO, streaming=streaming)
    expected = [c for part in parts for _, c in part]
    assert [images.class_names[label] for label in images.labels] == expected
    assert images.class_names == ("class0", "class1", "class2", "new")
