"""Folders, parquet files and data sets: the same images give the same set, whatever they come from."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest

from tests.helpers import write_class_folders
from tests.timm_gam.data.helpers import image_set_from_splits
from timm_gam.core import DataError
from timm_gam.data import draw_synthetic, pair_query_gallery, read_folder, read_parquet
from timm_gam.images import load_image


def as_dataset(folder: Path, **columns: object) -> datasets.Dataset:
    images = read_folder(folder)
    return datasets.Dataset.from_dict(
        {
            "id": list(images.ids),
            "image": [str(folder / i) for i in images.ids],
            "label": images.labels.tolist(),
            **columns,
        },
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=list(images.class_names)),
                **{name: datasets.Value("string") for name in columns},
            }
        ),
    )


def test_folder(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    (root / "class0" / "deep").mkdir()
    (root / "class0" / "0.jpg").rename(root / "class0" / "deep" / "0.JPEG")
    (root / ".hidden").mkdir()
    (root / "class1" / "notes.txt").write_text("x")
    (root / "class1" / ".3.jpg").write_text("x")
    images = read_folder(root)
    assert images.name == "photos"
    assert len(images) == 12
    assert images.ids[:4] == ("class0/1.jpg", "class0/2.jpg", "class0/3.jpg", "class0/deep/0.JPEG")
    assert images.class_names == ("class0", "class1", "class2")
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.splits is None
    again = pickle.loads(pickle.dumps(images))
    assert [load_image(e, "x")[0].size for _, e in again.reader.read([0, 11])] == [(40, 40), (40, 40)]


def test_folder_with_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_class_folders(tmp_path / split, classes=2, images=2)
    images = read_folder(tmp_path)
    assert images.class_names == ("class0", "class1")
    assert images.splits == ("test",) * 4 + ("train",) * 4
    assert images.ids[0] == "test/class0/0.jpg"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no folder"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "no class folders"),
        (lambda p: (p.mkdir(), (p / "a.jpg").write_text("x")), "data without labels"),
        (lambda p: (p / "empty").mkdir(parents=True), "'empty' that holds no images"),
    ],
    ids=["missing", "file", "no classes", "no labels", "empty class"],
)
def test_folders_that_cannot_be_used(make, message: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(DataError, match=message) as caught:
        read_folder(tmp_path / "photos")
    assert "\n" not in str(caught.value)


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    (root / "class0" / "0.jpg").rename(root / "class0" / "blütenblätter.jpg")
    assert "class0/blütenblätter.jpg" in read_folder(root).ids
    (root / "class1").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    with pytest.raises(DataError, match=r"the name b'caf\\xe9/0.jpg' is not UTF-8; rename it"):
        read_folder(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    (root / "class1").chmod(0)
    with pytest.raises(DataError, match="cannot read folder '.*class1'"):
        read_folder(root)


def test_parquet_keeps_ids_labels_and_bytes(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    folder = read_folder(root)
    as_dataset(root).to_parquet(tmp_path / "photos.parquet")
    table = read_parquet(tmp_path / "photos.parquet")
    assert table.ids == folder.ids
    assert table.class_names == folder.class_names
    np.testing.assert_array_equal(table.labels, folder.labels)
    everything = range(len(folder))
    assert [load_image(e, "x")[1] for _, e in table.reader.read(everything)] == [
        load_image(e, "x")[1] for _, e in folder.reader.read(everything)
    ]
    assert [i for i, _ in pickle.loads(pickle.dumps(table.reader)).read([2, 5])] == [2, 5]


def test_parquet_shards_name_their_split(tmp_path: Path) -> None:
    rows = as_dataset(write_class_folders(tmp_path / "photos"))
    (tmp_path / "pq").mkdir()
    rows.select(range(6)).to_parquet(tmp_path / "pq" / "test-00000-of-00001.parquet")
    rows.select(range(6, 9)).to_parquet(tmp_path / "pq" / "train-00000-of-00002.parquet")
    rows.select(range(9, 12)).to_parquet(tmp_path / "pq" / "train-00001-of-00002.parquet")
    images = read_parquet(tmp_path / "pq")
    assert images.splits is not None
    assert {s: images.splits.count(s) for s in set(images.splits)} == {"test": 6, "train": 6}
    (tmp_path / "pq" / "train-00001-of-00002.parquet").unlink()  # as a download that ended early leaves it
    with pytest.raises(DataError, match=r"lacks 1 of the 2 files of 'train' \(train-00001-of-00002, ...\); finish the"):
        read_parquet(tmp_path / "pq")
    assert len(read_parquet(tmp_path / "pq", splits=["test"])) == 6
    assert len(read_parquet(tmp_path / "pq" / "train-00000-of-00002.parquet")) == 3


def test_any_columns(tmp_path: Path) -> None:
    rows = as_dataset(write_class_folders(tmp_path / "photos"), kind=["b", "a"] * 6)
    renamed = rows.rename_columns({"image": "photo", "id": "key"})
    images = image_set_from_splits("x", {"train": renamed}, None, "kind", "key", streaming=False)
    assert images.class_names == ("a", "b")
    assert images.labels.tolist() == [1, 0] * 6
    numbered = image_set_from_splits("x", {"train": renamed}, "photo", None, None, streaming=False)
    assert numbered.ids[:2] == ("train/0000000", "train/0000001")
    for columns, message in (
        ((None, "nothing", None), "no column 'nothing'; columns of 'x': key, photo, label, kind"),
        (("nope", None, None), "no column 'nope'"),
        (("label", "kind", None), "column 'label' holds no images"),
    ):
        with pytest.raises(DataError, match=message):
            image_set_from_splits("x", {"train": renamed}, *columns, streaming=False)
    for removed, message in (("label", "data without labels"), ("photo", "0 image columns")):
        with pytest.raises(DataError, match=message):
            image_set_from_splits("x", {"t": renamed.remove_columns([removed])}, None, None, None, streaming=False)


def test_images_as_plain_bytes(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    data = [(root / i).read_bytes() for i in read_folder(root).ids]
    rows = datasets.Dataset.from_dict({"photo": data, "label": ["a", "b"] * 6})
    images = image_set_from_splits("x", {"train": rows}, "photo", None, None, streaming=False)
    assert [encoded for _, encoded in images.reader.read(range(12))] == data


def test_one_column_as_label_and_id(tmp_path: Path) -> None:
    rows = as_dataset(write_class_folders(tmp_path / "photos"))
    images = image_set_from_splits("x", {"train": rows}, None, "id", None, streaming=False)
    assert images.class_names == images.ids


def test_rows_without_label(tmp_path: Path) -> None:
    rows = as_dataset(write_class_folders(tmp_path / "photos"), kind=["a", None] * 6)
    with pytest.raises(DataError, match="data without labels: row 1"):
        image_set_from_splits("x", {"train": rows}, None, "kind", None, streaming=False)


def test_streaming_gives_the_same_images(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "photos")
    as_dataset(root).to_parquet(tmp_path / "photos.parquet")
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "photos.parquet"), streaming=True)
    streamed = image_set_from_splits("x", dict(stream), None, None, None, streaming=True)
    folder = read_folder(root)
    assert not streamed.reader.parallel
    assert streamed.ids == folder.ids
    wanted = [1, 4, 11]
    assert [(i, load_image(e, "x")[1]) for i, e in streamed.reader.read(wanted)] == [
        (i, load_image(e, "x")[1]) for i, e in folder.reader.read(wanted)
    ]


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_parquet_that_cannot_be_read(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    if damage == "garbage":
        path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="no parquet file|cannot be read") as caught:
        read_parquet(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "message", "asked"),
    [({}, "no answer from http://127.0.0.1:", 1), ({"HF_HUB_OFFLINE": "1"}, "cannot be loaded", 0)],
    ids=["dead endpoint", "offline"],
)
def test_hub_that_cannot_be_reached_is_asked_once(
    environment: dict[str, str], message: str, asked: int, tmp_path: Path
) -> None:
    code = """
from timm_gam.core.errors import DataError
from timm_gam.data import read_hub_dataset
try:
    read_hub_dataset("owner/name")
except DataError as error:
    print(error)
"""
    calls: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # the server was shut down
                while True:
                    calls.append(server.accept()[0])
                    calls[-1].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        env = {**os.environ, "HF_ENDPOINT": endpoint, **environment, "HF_HOME": str(tmp_path)}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    said = out.stdout.splitlines()
    assert message in said[-1]
    assert len(said) == 1
    assert len(calls) == asked, "the first failure decides: no retries on a dead endpoint"


def test_pair_joins_by_class_name(tmp_path: Path) -> None:
    query = read_folder(write_class_folders(tmp_path / "q", classes=2, images=1))
    gallery = read_folder(write_class_folders(tmp_path / "g", classes=3, images=2))
    both = pair_query_gallery(query, gallery)
    assert both.splits == ("query",) * 2 + ("gallery",) * 6
    assert both.labels.tolist() == [0, 1, 0, 0, 1, 1, 2, 2]
    assert [i for i, _ in both.reader.read([0, 1, 2, 7])] == [0, 1, 2, 7]
    assert next(both.reader.read([7]))[1] == tmp_path / "g" / "class2" / "1.jpg"
    (tmp_path / "other" / "z").mkdir(parents=True)
    (tmp_path / "other" / "z" / "1.jpg").write_bytes((tmp_path / "q" / "class0" / "0.jpg").read_bytes())
    with pytest.raises(DataError, match="share no class name"):
        pair_query_gallery(query, read_folder(tmp_path / "other"))


def test_synthetic_set_is_the_same_in_every_process() -> None:
    images = draw_synthetic()
    assert len(images.class_names) >= 20
    assert len(images) == 30 * len(images.class_names)
    assert "not COREL" in images.name
    code = "from timm_gam.data import draw_synthetic as d; import hashlib; " + (
        "print(hashlib.sha256(b''.join(i.tobytes() for _, i in d().reader.read([0, 99, 719]))).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in ({**os.environ, "PYTHONHASHSEED": "1"}, {**os.environ, "PYTHONHASHSEED": "2"})
    }
    assert len(runs) == 1
    pixels = [np.asarray(i) for _, i in images.reader.read(range(0, len(images), 30))]
    assert all(p.shape == (96, 144, 3) and p.std() > 5 for p in pixels)
    few = draw_synthetic(2)
    assert next(few.reader.read([few.ids.index("reef/0001")]))[1].tobytes() == (
        next(images.reader.read([images.ids.index("reef/0001")]))[1].tobytes()
    )


def test_coreldb(coreldb: Path) -> None:
    images = read_folder(coreldb)
    assert len(images) == 10_800
    assert len(images.class_names) == 80
    assert min(np.bincount(images.labels)) == 60
