"""Repositories of the Hub that cannot be read: one line that says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from timm_gam.core import DataError, UnreadableImageError
from timm_gam.data import read_hub_dataset
from timm_gam.images import load_image

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


def damaged_rows(root: Path, photos: list[tuple[bytes, str]]) -> None:
    path = root / "data" / "train-00000-of-00001.parquet"
    write_table(path, photos)
    whole = bytearray(path.read_bytes())
    whole[200:4000] = b"\xff" * 3800
    path.write_bytes(whole)


def no_parquet(root: Path, photos: list[tuple[bytes, str]]) -> None:
    (root / "data").mkdir(parents=True)
    (root / "data" / "train-00000-of-00001.parquet").write_bytes(b"no parquet")


def mixed_kinds(root: Path, photos: list[tuple[bytes, str]]) -> None:
    write_table(root / "data" / "test-00000-of-00001.parquet", photos)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": data, "path": None} for data, _ in photos], "label": [1] * 12}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "data" / "train-00000-of-00001.parquet")


def uneven_csv(root: Path, photos: list[tuple[bytes, str]]) -> None:
    root.mkdir()
    (root / "train.csv").write_text("image,label\nx.jpg,a\ny.jpg,b,c,d\n")


def escaping_metadata(root: Path, photos: list[tuple[bytes, str]]) -> None:
    write_class_folders(root / "train")
    (root / "train" / "metadata.csv").write_text("file_name,label\n../../secret.jpg,a\n")


def archive(root: Path, photos: list[tuple[bytes, str]]) -> None:
    root.mkdir()
    shutil.make_archive(str(root / "photos"), "zip", write_class_folders(root.parent / "archived"))


def damaged_readme(root: Path, photos: list[tuple[bytes, str]]) -> None:
    write_class_folders(root)
    (root / "README.md").write_text("---\nconfigs: [a: {\n---\n")


def nothing(root: Path, photos: list[tuple[bytes, str]]) -> None:
    root.mkdir()
    (root / "README.md").write_text("x")


def no_classes(root: Path, photos: list[tuple[bytes, str]]) -> None:
    root.mkdir()
    (root / "x.jpg").write_bytes(photos[0][0])


@STREAMING
@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (damaged_rows, "Invalid or truncated"), (no_parquet, "not a parquet file"),
        (mixed_kinds, "mixes text and whole numbers"), (uneven_csv, "Expected 2 fields in line 3, saw 4"),
        (escaping_metadata, "Invalid metadata file_name '../../secret.jpg'"),
        (damaged_readme, "README.md: while parsing"),
        (archive, "finds no classes in archives of images; unpack them"),
        (nothing, "doesn't contain any data files"), (no_classes, "images but no class folders"),
    ],
)  # fmt: skip
def test_what_the_library_cannot_read_is_one_line_with_its_cause(
    write: Callable[[Path, list[tuple[bytes, str]]], None],
    cause: str,
    streaming: bool,
    photos: list[tuple[bytes, str]],
    hub: LoopbackHub,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path / "d", photos)
    hub.add("datasets", REPO, tmp_path / "d")
    with pytest.raises(DataError) as caught:
        images = read_hub_dataset(REPO, streaming=streaming)
        list(images.reader.read(range(len(images))))
    assert cause in str(caught.value)
    assert REPO in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caplog.records == [], "the library's own report of it"


def test_an_image_that_vanished_or_is_damaged(hub: LoopbackHub, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "d")
    (root / "class1" / "2.jpg").write_bytes(b"\xff\xd8 no photograph")
    hub.add("datasets", REPO, root)
    images = read_hub_dataset(REPO, streaming=True)
    encoded = dict(images.reader.read(range(12)))
    with pytest.raises(UnreadableImageError, match="class1/2.jpg"):
        load_image(encoded[6], images.ids[6])
    hub.repositories.clear()
    with pytest.raises(DataError, match="'class2/3.jpg' of 'me/photos' cannot be read"):
        list(images.reader.read([11]))
