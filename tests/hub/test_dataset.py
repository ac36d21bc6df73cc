"""A folder becomes a data set that the evaluation reads as it reads the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from hub.dataset import main
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from timm_gam.data import ImageSet, published_split, read_folder, read_hub_dataset, read_images
from timm_gam.images import data_fingerprint, digest_images

REPO = "me/photos"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos", classes=3, images=10)


def fingerprint(images: ImageSet) -> str:
    rows = np.arange(len(images), dtype=np.int64)
    return data_fingerprint(images, rows, digest_images(images, rows))


def test_a_folder_and_its_data_set_are_the_same(
    photos: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(photos), "--repo", REPO, "--revision", "v1"]) == 0
    assert "proved  read back by streaming" in capsys.readouterr().out
    folder = read_folder(photos)
    for streaming in (False, True):
        images = read_hub_dataset(f"{REPO}@v1", streaming=streaming)
        assert fingerprint(images) == fingerprint(folder)
        assert images.class_names == folder.class_names
        is_test = dict(zip(folder.ids, published_split(folder.ids, folder.labels).tolist(), strict=True))
        assert images.splits is not None
        assert {i: split == "test" for i, split in zip(images.ids, images.splits, strict=True)} == is_test
    assert main([str(photos), "--repo", REPO, "--revision", "v1"]) == 0
    assert len(hub.repository("datasets", REPO).commits) == 2, "the same photographs are the same bytes"
    assert hub.tokens_at_store == []
    text = (hub.copy_out("datasets", REPO, tmp_path / "out") / "README.md").read_text()
    assert text.index("photographs of") < text.index("(.thumbnails.webp)") < text.index("| --- |")
    with Image.open(tmp_path / "out" / ".thumbnails.webp") as picture:
        assert not picture.getexif() and picture.width > picture.height
    assert DatasetCard(text).data.license == "unknown"
    assert "**No licence was given.**" in text
    assert "copyright" not in text, "nobody said whose they are"
    assert fingerprint(folder) in text


def test_duplicates_and_unreadable_files_are_reported(
    photos: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = read_folder(photos)
    is_test = published_split(ids.ids, ids.labels)
    one = photos / ids.ids[int(np.flatnonzero(is_test)[0])]
    shutil.copy(one, one.with_name("copy.jpg"))
    Image.open(one).resize((80, 80)).save(one.with_name("larger.png"))
    (photos / "class0" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    command = [str(photos), "--repo", REPO, "--dry-run", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "1 files cannot be read, the first is 'class0/broken.jpg'" in said.err
    assert "same    1 groups with the same bytes" in said.out
    assert not (tmp_path / "out").exists(), "nothing half-written"
    assert main([*command, "--skip-unreadable", "--near", "0.8"]) == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["images"] == 32
    assert list(audit["unreadable"]) == ["class0/broken.jpg"]
    (group,) = audit["exact_duplicates"]
    assert {Path(name).name for name in group["ids"]} == {one.name, "copy.jpg"}
    assert any("larger.png" in pair["ids"][1] for pair in audit["near_duplicates"])


def test_what_is_written_is_read_as_its_folder(photos: Path, tmp_path: Path, cache: Path) -> None:
    """The folder of --out is a data set's repository, as a clone of the published one is."""
    shutil.move(photos, tmp_path / "all" / "images")
    for split, first in (("Train", 0), ("dev", 5), ("test", 7)):
        for label in (tmp_path / "all" / "images").iterdir():
            for path in sorted(label.iterdir())[first : {0: 5, 5: 7, 7: 10}[first]]:
                target = tmp_path / "splits" / split / label.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    for name in ("all", "splits"):
        assert main([str(tmp_path / name), "--repo", REPO, "--dry-run", "--out", str(tmp_path / "out" / name)]) == 0
        folder, written = read_folder(tmp_path / name), read_images(str(tmp_path / "out" / name), None)
        assert fingerprint(written) == fingerprint(folder)
        assert written.class_names == folder.class_names
    split_of = dict(zip(folder.ids, folder.splits or (), strict=True))
    assert dict(zip(written.ids, written.splits or (), strict=True)) == split_of
    assert set(split_of.values()) == {"train", "validation", "test"}


def test_one_class_and_what_is_left_out_are_told(
    photos: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--repo", REPO, "--dry-run", "--out", str(tmp_path / "out")]
    (photos / "class0" / "notes.txt").write_text("x")
    (photos / "class0" / ".hidden.jpg").write_text("x")
    assert main([str(photos), *command]) == 0
    said = capsys.readouterr().out
    assert "not read  1 .txt, 1 hidden" in said
    assert "warning" not in said
    for label in ("class1", "class2"):
        shutil.rmtree(photos / label)
    assert main([str(photos), *command]) == 0
    assert "warning  only one class ('class0')" in capsys.readouterr().out
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["warnings"][0].startswith("only one class ('class0')")
    assert audit["left_out"] == {".txt": 1, "hidden": 1}
    assert "| warning | only one class ('class0')" in (tmp_path / "out" / "README.md").read_text()


def test_bad_input_is_one_line(photos: Path, token: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(photos / "none"), "--repo", REPO]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main([str(photos), "--repo", REPO]) == 2
    assert "no answer from http://127.0.0.1" in capsys.readouterr().err
    for options in (
        ["--repo", REPO, "--near", "300"],
        ["--repo", "me/a--b"],
        ["--repo", "two words"],
        ["--repo", "nobody"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(photos), *options])
    assert "'nobody' is no Hub id; one reads owner/name" in capsys.readouterr().err


def test_a_conflict_is_reported(photos: Path, hub: LoopbackHub, token: str, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults.add("conflict", "POST .*/commit/main")
    assert main([str(photos), "--repo", REPO]) == 2
    assert "somebody else committed" in capsys.readouterr().err
    assert hub.head("datasets", REPO).files == {}


@pytest.mark.parametrize("skip", [[], ["--skip-unreadable"]])
def test_a_folder_without_a_readable_image_is_one_line(
    skip: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "junk.jpg").write_bytes(b"junk")
    out = tmp_path / "out"
    assert main([str(tmp_path / "photos"), "--repo", "me/set", "--dry-run", "--out", str(out), *skip]) == 2
    error = capsys.readouterr().err.strip()
    reason = "none of 1 files of 'photos' can be read, the first is 'a/junk.jpg' (not an image)"
    assert error == f"error: {reason}; name a folder of images"
    assert not out.exists()
