"""Tables as people have them: the labels of each file mean what that file says, or one line says why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.timm_gam.data.helpers import image_set_from_splits
from timm_gam.core import DataError, UnreadableImageError
from timm_gam.data import choose_protocol, is_parquet, read_images, read_parquet
from timm_gam.images import load_image

CLASSES = ("class0", "class1", "class2")


def table(
    rows: list[tuple[bytes, str]], labels: list[Any] | None = None, feature: Any = None, **columns: Any
) -> datasets.Dataset:
    names = list(CLASSES)
    features = {"image": datasets.Image(), "label": feature or datasets.ClassLabel(names=names)}
    values = [names.index(c) for _, c in rows] if labels is None else labels
    content = {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": values}
    for name, (kind, column) in columns.items():
        features[name], content[name] = kind, column
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def named(images: Any) -> list[str]:
    return [images.class_names[label] for label in images.labels]


def test_each_file_says_what_its_numbers_mean(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    other = datasets.ClassLabel(names=list(CLASSES[::-1]))
    table(photos[0::2]).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    last = [other.str2int(c) for _, c in photos[1::4]]
    table(photos[1::4], last, other).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    texts = [c for _, c in photos[3::4]]
    table(photos[3::4], texts, datasets.Value("string")).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    images = read_parquet(tmp_path)
    expected = [c for rows in (photos[0::2], photos[1::4], photos[3::4]) for _, c in rows]
    assert sorted(images.class_names) == sorted(CLASSES)
    assert named(images) == expected
    assert images.ids[:7] == tuple(f"train/{i:07d}" for i in range(7)), "numbered through the split's files"
    digests = [load_image(e, "x")[0].tobytes() for _, e in images.reader.read(range(12))]
    assert digests == [
        load_image(d, "x")[0].tobytes() for rows in (photos[0::2], photos[1::4], photos[3::4]) for d, _ in rows
    ]
    own = tmp_path / "own"
    own.mkdir()
    for number, name in enumerate(CLASSES[:2]):
        rows = [row for row in photos if row[1] == name]
        one = datasets.ClassLabel(names=[name])
        table(rows, [0] * len(rows), one).to_parquet(own / f"train-0000{number}-of-00002.parquet")
    assert Counter(named(read_parquet(own))) == {"class0": 4, "class1": 4}


def test_classes_of_loaded_splits_are_matched_by_name(photos: list[tuple[bytes, str]]) -> None:
    other = datasets.ClassLabel(names=["new", *CLASSES[::-1]])
    splits = {"a": table(photos), "b": table(photos, [other.str2int(c) for _, c in photos], other)}
    images = image_set_from_splits("x", splits)
    assert named(images) == [c for _, c in photos] * 2
    assert images.class_names == (*CLASSES, "new")


@pytest.mark.parametrize(
    ("feature", "label", "message"),
    [
        (datasets.Value("float32"), float("nan"), "row 3 of split 'train' of '.*' has label nan"),
        (datasets.Value("float64"), float("inf"), "has label inf"),
        (datasets.Value("int64"), -1, "row 3 of split 'train' of '.*' has label -1"),
        (datasets.Value("int64"), None, "data without labels"),
        (datasets.Value("string"), "", "data without labels"),
        (datasets.List(datasets.Value("int64")), [0, 1], "holds several labels an image"),
        (datasets.List(datasets.ClassLabel(names=["a", "b"])), [0], "holds several labels an image"),
        ({"a": datasets.Value("int64")}, {"a": 1}, "holds no labels"),
        (datasets.Value("binary"), b"x", "has a label of type bytes"),
    ],
    ids=["nan", "infinity", "minus one", "none", "empty", "list", "class list", "struct", "bytes"],
)
def test_labels_that_are_no_class(
    feature: Any, label: Any, message: str, photos: list[tuple[bytes, str]], tmp_path: Path
) -> None:
    good: Any = [0] if isinstance(label, list) else {"a": 0} if isinstance(label, dict) else label
    good = {"string": "a", "int64": 1, "float32": 1.0, "float64": 1.0}.get(getattr(feature, "dtype", ""), good)
    if getattr(feature, "dtype", "") == "binary":
        good = b"x"
    labels = [good] * 3 + [label] + [good] * 8
    table(photos, labels, feature).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(DataError, match=message) as caught:
        read_parquet(tmp_path)
    assert "\n" not in str(caught.value)


def test_minus_zero_is_the_class_of_zero(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    labels = [0.0, -0.0, 1.5] * 4
    table(photos, labels, datasets.Value("float64")).to_parquet(tmp_path / "data.parquet")
    images = read_parquet(tmp_path)
    assert images.class_names == ("0.0", "1.5")
    assert images.labels.tolist() == [0, 0, 1] * 4


@pytest.mark.parametrize("label", [7, 3, 2**62, -2], ids=str)
def test_labels_out_of_range(label: int, photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    table(photos).to_parquet(path)
    rows = pq.read_table(path)
    labels = rows.column("label").to_numpy().copy()
    labels[5] = label
    at = rows.schema.get_field_index("label")
    pq.write_table(rows.set_column(at, "label", pa.array(labels)).replace_schema_metadata(rows.schema.metadata), path)
    with pytest.raises(DataError, match=f"row 5 of split 'train' of 'data' has label {label} .* legal: 0 to 2"):
        read_parquet(path)


def test_kinds_of_labels_do_not_mix(photos: list[tuple[bytes, str]]) -> None:
    for other, values in (("int64", [1]), ("float64", [1.0]), ("bool", [True])):
        splits = {
            "a": table(photos[:1], ["1"], datasets.Value("string")),
            "b": table(photos[:1], values, datasets.Value(other)),
        }
        with pytest.raises(DataError, match="mixes"):
            image_set_from_splits("x", splits)
    whole = {
        "a": table(photos[:1], [1], datasets.Value("int64")),
        "b": table(photos[:1], [1.0], datasets.Value("float64")),
    }
    with pytest.raises(DataError, match="mixes decimal numbers and whole numbers"):
        image_set_from_splits("x", whole)


def test_splits_by_file_names_and_only_needed_ones(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    table(photos[0::2]).to_parquet(tmp_path / "train.parquet")
    table(photos[1::2], [-1] * 6).to_parquet(tmp_path / "test.parquet")
    (tmp_path / "._train.parquet").write_bytes(b"\0\5\x16\7")
    images = read_images(str(tmp_path), None, splits=("train",))
    assert (set(images.splits), images.published_splits) == ({"train"}, ("train", "test"))
    assert len(choose_protocol(images, split="train").query) == 6
    assert images.left_out == {"hidden": 1}
    with pytest.raises(DataError, match="row 0 of split 'test' of '.*' has label -1"):
        read_images(str(tmp_path), None, splits=("test",))


@pytest.mark.parametrize("readme", ["x", "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: holdout\n"
                                    "    path: data/train-*\n---\n"], ids=["plain", "configured"])  # fmt: skip
def test_a_cloned_repository(readme: str, photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text(readme)
    table(photos[0::2]).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    table(photos[1::2]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert is_parquet(tmp_path)
    theirs = datasets.load_dataset(str(tmp_path))
    assert Counter(read_images(str(tmp_path), None).splits) == {split: len(rows) for split, rows in theirs.items()}


def test_several_configurations(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    configs = "".join(f"- config_name: {n}\n  data_files: {n}.parquet\n" for n in ("small", "large"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    table(photos[:4]).to_parquet(tmp_path / "small.parquet")
    table(photos).to_parquet(tmp_path / "large.parquet")
    assert len(read_parquet(tmp_path, config_name="small")) == 4
    with pytest.raises(DataError, match="--config-name: small, large"):
        read_parquet(tmp_path)
    with pytest.raises(DataError, match="'none of these'"):
        read_parquet(tmp_path, config_name="none of these")


def test_rows_without_an_image_are_unreadable(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    feature = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    content = {
        "image": [{"bytes": data if row else None, "path": None} for row, (data, _) in enumerate(photos)],
        "label": [c for _, c in photos],
    }
    plain = datasets.Features({"image": feature, "label": datasets.Value("string")})
    datasets.Dataset.from_dict(content, features=plain).to_parquet(tmp_path / "data.parquet")
    images = read_parquet(tmp_path)
    encoded = dict(images.reader.read(range(12)))
    with pytest.raises(UnreadableImageError, match="empty file"):
        load_image(encoded[0], "x")
    assert encoded[1] == photos[1][0]


def test_nested_structs_hold_no_images(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    struct = {"bytes": {"bytes": datasets.Value("binary")}, "path": datasets.Value("string")}
    content = {"image": [{"bytes": {"bytes": d}, "path": None} for d, _ in photos], "label": ["a"] * 12}
    features = datasets.Features({"image": struct, "label": datasets.Value("string")})
    datasets.Dataset.from_dict(content, features=features).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(DataError, match="0 image columns"):
        read_parquet(tmp_path)
    with pytest.raises(DataError, match="holds no images but"):
        read_parquet(tmp_path, image_column="image")


def test_ids_that_repeat(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    table(photos, id=(datasets.Value("int64"), [row // 2 for row in range(12)])).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(DataError, match="--id-column none"):
        read_parquet(tmp_path)
    assert read_parquet(tmp_path, id_column="none").ids[-1] == "train/0000011"


def test_a_table_reads_no_other_files_of_the_machine(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, elsewhere):
        folder.mkdir()
        (folder / "x.jpg").write_bytes(photos[0][0])
    (data / "link.jpg").symlink_to(elsewhere / "x.jpg")

    def written(path: str) -> Path:
        rows = datasets.Dataset.from_dict(
            {"image": [{"bytes": None, "path": path}], "label": ["a"]},
            features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
        )
        pq.write_table(rows.data.table, data / "data.parquet")  # the library's own writer looks the path up
        return data / "data.parquet"

    for legal in ("x.jpg", str(data / "x.jpg")):
        assert [e for _, e in read_parquet(written(legal)).reader.read([0])] == [data / "x.jpg"]
    for hostile in (str(elsewhere / "x.jpg"), "../elsewhere/x.jpg", "link.jpg", "https://host/x.jpg", "file:///x.jpg"):
        with pytest.raises(DataError, match="outside of its own"):
            list(read_parquet(written(hostile)).reader.read([0]))
    allowed = read_parquet(written(str(elsewhere / "x.jpg")), image_root=elsewhere)
    assert [e for _, e in allowed.reader.read([0])] == [elsewhere / "x.jpg"]
    with pytest.raises(DataError, match="NUL"):
        list(read_parquet(written("a\0b.jpg")).reader.read([0]))
    with pytest.raises(DataError, match="no folder|NUL"):
        read_images("a\0b", None)


def test_errors_of_the_library_while_rows_are_read(photos: list[tuple[bytes, str]]) -> None:
    def rows() -> Any:
        yield {"image": {"bytes": photos[0][0], "path": None}, "label": "a"}
        raise ConnectionResetError("the peer went away\nsecond line")

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    with pytest.raises(DataError, match="'x' cannot be read: the peer went away$"):
        image_set_from_splits("x", {"train": stream}, streaming=True)


def test_label_numbers_stay(photos: list[tuple[bytes, str]], tmp_path: Path) -> None:
    table(photos).to_parquet(tmp_path / "data.parquet")
    images = read_parquet(tmp_path)
    np.testing.assert_array_equal(images.labels, np.repeat([0, 1, 2], 4))
    assert images.class_names == CLASSES
