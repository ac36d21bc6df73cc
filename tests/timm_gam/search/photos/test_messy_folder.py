"""Folders as people have them: names, times, dates and permissions that are wrong, and an index that is damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.timm_gam.search.photos.conftest import MODEL
from timm_gam.core import DataError
from timm_gam.search import PhotoFilter, PhotoIndex
from timm_gam.search.__main__ import main
from timm_gam.search.photos.folder import Photo, find_photos, read_facts
from timm_gam.search.photos.photo_index import INDEX_NAME


def said_by(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """What a command that ends with a code says on stderr."""
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


def test_a_name_that_is_not_utf8_is_named_and_folders_of_the_system_are_left_out(tmp_path: Path) -> None:
    left_out = (b".b.jpg", b"@eaDir/a.jpg", b"lost+found/c.jpg", b".d/d.jpg", b"__MACOSX/a.jpg")
    for name in (b"a.jpg", b"caf\xe9.jpg", *left_out):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        try:
            path.write_bytes(b"x")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    found = {photo.path: read_facts(tmp_path, photo).digest != b"" for photo in find_photos(tmp_path)}
    assert found == {"a.jpg": True, "caf\\xe9.jpg": False}


def test_any_time_of_a_file_can_be_kept(indexed: Path, capsys) -> None:
    """File systems have years past 2262, where nanoseconds leave 64 bits, and write them when a clock is broken."""
    for number, seconds in enumerate((-(10**9), 4 * 10**9, 16 * 10**9)):
        os.utime(indexed / "class0" / f"{number}.jpg", (seconds, seconds))
    said_by(capsys, "index", indexed, "-j", "0")
    files = {photo.path: photo for photo in find_photos(indexed)}
    kept = PhotoIndex.open(indexed).catalogue.file("class0/2.jpg")
    assert kept == read_facts(indexed, files["class0/2.jpg"]) and kept.mtime_ns == files["class0/2.jpg"].mtime_ns


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("2019:06:21 10:00:00", "2019-06-21T10:00:00"),
        ("0000:00:00 00:00:00", None),
        ("2030:02:30 10:00:00", None),
        ("2019:06:21 99:00:00", None),
        ("<script>", None),
    ],
)
def test_a_date_that_is_none_is_not_kept(written: str, kept: str | None, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[306] = written
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_facts(tmp_path, Photo("a.jpg", 0, 0)).taken == kept


@pytest.mark.parametrize("date", ["2019-13", "2019-02-30", "2019-00", "19", "2019-6", "0000"])
def test_a_filter_by_a_date_that_is_none_is_refused(date: str) -> None:
    with pytest.raises(DataError, match="is no date; legal: 2019, 2019-06, 2019-06-21"):
        PhotoFilter.read(since=date)
    assert PhotoFilter.read(since="2020-02-29", until="2019").until == "2019"


def test_what_could_not_be_read_is_tried_again_and_a_new_time_is_no_change(indexed: Path, capsys) -> None:
    def counts(*options: str) -> list[int]:
        assert main(["index", str(indexed), "-j", "0", "--json", *options]) == 0
        made = json.loads(capsys.readouterr().out)
        return [made[name] for name in ("new", "moved", "changed", "embedded", "photos")]

    Image.effect_noise((700, 700), 50).save(indexed / "large.jpg")
    os.utime(indexed / "class0" / "0.jpg", (1, 1))
    assert counts("--max-decode-mb", "1") == [1, 0, 0, 0, 13]
    assert counts() == [0, 0, 0, 1, 14]
    assert counts() == [0, 0, 0, 0, 14]


def test_what_cannot_be_found_is_said(indexed: Path, capsys) -> None:
    photo = indexed / "class0" / "0.jpg"
    assert said_by(capsys, "query", photo, "--in", indexed) == ""
    (part,) = (indexed / INDEX_NAME / "vectors").glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:1000])
    note = f"note: 13 of 13 photographs have no embedding by {MODEL}, so are not found; bring the index up to date"
    assert note in said_by(capsys, "query", photo, "--in", indexed)
    assert note in said_by(capsys, "duplicates", indexed)
    (indexed / INDEX_NAME / "photos.sqlite").write_bytes(b"")
    assert "the catalogue holds no photograph" in said_by(capsys, "query", photo, "--in", indexed)
    assert said_by(capsys, "index", indexed, "-j", "0") == said_by(capsys, "query", photo, "--in", indexed) == ""


def test_a_photograph_is_never_written_over(indexed: Path, tmp_path: Path, capsys) -> None:
    photo = Path(shutil.copy(indexed / "class0" / "0.jpg", tmp_path / "asked.jpg"))
    other = indexed / "class1" / "1.jpg"
    before = photo.read_bytes(), other.read_bytes()
    for option, path in (("--html", photo), ("--png", other)):
        assert "is a photograph and would be written over" in said_by(
            capsys, "query", photo, "--in", indexed, option, path, code=2
        )
    assert "would be written over" in said_by(capsys, "duplicates", indexed, "--png", other, code=2)
    assert before == (photo.read_bytes(), other.read_bytes())


@pytest.mark.parametrize("entry", ['{"model": 5}', '{"model": "a", "key": 5}', '{"modl": "a"}', "5"])
def test_an_index_whose_words_are_of_another_kind_is_refused(entry: str, indexed: Path, capsys) -> None:
    (indexed / INDEX_NAME / "index.json").write_text(f'{{"format": 1, "photos": "..", "collections": [{entry}]}}')
    said = said_by(capsys, "query", indexed / "class0" / "0.jpg", "--in", indexed, code=2)
    assert said.startswith("error: ") and "remove it and index again" in said and said.count("\n") == 1


def test_what_is_wrong_with_a_catalogue_is_told_apart(indexed: Path, capsys) -> None:
    catalogue = indexed / INDEX_NAME / "photos.sqlite"
    whole = catalogue.read_bytes()
    with PhotoIndex.open(indexed).catalogue._open() as database:
        database.execute("begin exclusive")
        import timm_gam.search.photos.catalogue as module

        connect = module.sqlite3.connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.sqlite3, "connect", lambda path, timeout: connect(path, timeout=0))
            said = said_by(capsys, "query", indexed / "class0" / "0.jpg", "--in", indexed, code=2)
    assert "database is locked; is it in use, can it be written, and has the disk room?" in said
    catalogue.write_bytes(whole[:100])
    assert "remove it and index again" in said_by(capsys, "duplicates", indexed, code=2)
