"""Search in a folder of photographs: what is found, and what an update finds new, changed, moved, deleted or broken."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from timm_gam.search.__main__ import main
from timm_gam.search.photos.photo_index import INDEX_NAME, PhotoIndex

MODEL = ["--model", "test_resnet_gam.corel"]


def index(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["index", str(folder), *MODEL, "-j", "0", "--json", *options]) == 0
    counts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return counts


def query(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main(["query", *map(str, arguments), "--json"]) == 0
    matches: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["matches"]
    return matches


def test_ranks_are_those_of_the_full_cosine_matrix(folder: Path, capsys) -> None:
    index(folder, capsys)
    made = PhotoIndex.open(folder)
    digests = made.catalogue.digests()
    vectors = made.embeddings(made.collection()).read(digests).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photo = made.catalogue.file("class1/2.jpg")
    scores = vectors @ vectors[list(digests).index(photo.digest)]
    found = query(capsys, folder / "class1" / "2.jpg", "--in", folder, "-k", 5)
    assert found[0]["path"] == "class1/2.jpg"
    np.testing.assert_allclose([m["score"] for m in found], np.sort(scores)[::-1][:5], atol=1e-6)


def test_an_update_finds_what_has_become_of_the_folder(folder: Path, capsys) -> None:
    first = index(folder, capsys)
    assert (first["new"], first["embedded"], first["photos"]) == (13, 13, 13)
    (folder / "class0" / "0.jpg").rename(folder / "moved.jpg")
    (folder / "class0" / "1.jpg").unlink()
    shutil.copy(folder / "class1" / "0.jpg", folder / "class1" / "copy.jpg")
    Image.new("RGB", (40, 40), "blue").save(folder / "class2" / "0.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    second = index(folder, capsys)
    assert [second[name] for name in ("moved", "changed", "deleted", "embedded", "photos")] == [2, 1, 2, 1, 13]
    assert second["unreadable"] == {"broken.jpg": "not an image"}
    third = index(folder, capsys)
    assert [third[name] for name in ("new", "moved", "changed", "deleted", "embedded")] == [0] * 5
    found = query(capsys, folder / "class1" / "copy.jpg", "--in", folder, "-k", 20)
    assert found[0]["path"] == "class1/0.jpg" and found[0]["copies"] == ["class1/copy.jpg"]
    paths = [path for match in found for path in (match["path"], *match["copies"])]
    assert sorted(paths) == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg") if "broken" not in p.name
    )


def test_filters_by_folder_date_and_size(folder: Path, capsys) -> None:
    index(folder, capsys)
    photo = folder / "class0" / "dated.jpg"

    def paths(*options: str) -> list[str]:
        return [match["path"] for match in query(capsys, photo, "--in", folder, "-k", 50, *options)]

    assert {path.split("/")[0] for path in paths("--folder", "class1")} == {"class1"}
    assert paths("--folder", "class") == []
    for options in (["--since", "2019"], ["--until", "2019-06"], ["--since", "2019-06-21", "--until", "2019-06-21"]):
        assert paths(*options) == ["class0/dated.jpg"]
    assert paths("--since", "2019-07") == paths("--until", "2019-05") == []
    assert paths("--size", "80x50") == paths("--size", "50x80") == ["class0/dated.jpg"]
    (match,) = query(capsys, photo, "--in", folder, "--size", "80x50")
    assert (match["width"], match["height"], match["taken"]) == (50, 80, "2019-06-21T10:00:00")


def test_another_model_is_another_collection(folder: Path, capsys) -> None:
    index(folder, capsys)
    assert index(folder, capsys, "--model", "test_resnet_se.corel")["embedded"] == 13
    photo = folder / "class0" / "0.jpg"
    one, two = (query(capsys, photo, "--in", folder, "--model", f"test_resnet_{n}.corel") for n in ("gam", "se"))
    assert [m["score"] for m in one] != [m["score"] for m in two]
    assert index(folder, capsys)["embedded"] == 0


def test_links_lead_nowhere_else(folder: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "secret.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "loop").symlink_to(folder)
    assert index(folder, capsys)["photos"] == 13


def test_several_are_averaged_and_a_sheet_needs_no_other_file(folder: Path, tmp_path: Path, capsys) -> None:
    index(folder, capsys)
    photos = [folder / "class0" / "0.jpg", folder / "class1" / "0.jpg"]
    found = query(capsys, *photos, "--in", folder, "-k", 3, "--html", tmp_path / "sheet.html")
    made = PhotoIndex.open(folder)
    digests = made.catalogue.digests()
    vectors = made.embeddings(made.collection()).read(digests).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = [list(digests).index(hashlib.sha256(photo.read_bytes()).digest()) for photo in photos]
    mean = vectors[places].mean(axis=0)
    best = np.sort(vectors @ mean / np.linalg.norm(mean))[::-1][:3]
    np.testing.assert_allclose([match["score"] for match in found], best, atol=2e-6)
    text = (tmp_path / "sheet.html").read_text()
    assert text.count("data:image/webp;base64,") == 5 and "http" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "x.jpg", "--in", "nowhere"], "holds no index"),
        (["query", "x.jpg", "--in", "{folder}"], "'x.jpg'"),
        (["query", "{folder}/class0/0.jpg", "--in", "{folder}", "--model", "resnet18"], "no collection of 'resnet18'"),
        (["index", "nowhere"], "no folder 'nowhere'"),
        (["index", "{empty}", *MODEL], "no photographs"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys) -> None:
    index(folder, capsys)
    (tmp_path / "empty").mkdir()
    filled = [text.format(folder=folder, empty=tmp_path / "empty") for text in arguments]
    assert main(filled) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_an_index_that_nothing_came_into_is_taken_away(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["index", str(tmp_path / "empty"), *MODEL]) == 2
    assert list((tmp_path / "empty").iterdir()) == []
    assert main(["index", str(folder), "--model", "hf-hub:me/nowhere"]) == 2
    assert not (folder / INDEX_NAME).exists()
    PhotoIndex.create(folder)
    capsys.readouterr()
    assert main(["query", str(folder / "class0" / "0.jpg"), "--in", str(folder)]) == 2
    assert "is of no photographs yet; run timm-gam search index" in capsys.readouterr().err


def test_a_link_to_itself_is_left_out(folder: Path, capsys) -> None:
    (folder / "class0" / "self.jpg").symlink_to(folder / "class0" / "self.jpg")
    assert index(folder, capsys)["embedded"] == 13
    assert main(["query", str(folder / "class0"), "--in", str(folder)]) == 2
    assert "class0" in capsys.readouterr().err


def test_a_folder_is_not_indexed_for_a_photo_that_is_not_there(folder: Path, capsys) -> None:
    assert main(["query", str(folder / "none.jpg"), "--in", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: cannot read image '{folder / 'none.jpg'}': No such file or directory\n"
    assert not (folder / INDEX_NAME).exists()


def test_a_folder_without_an_index_is_asked_and_answers_with_a_picture(folder: Path, tmp_path: Path, capsys) -> None:
    photo, sheet = folder / "class2" / "1.jpg", tmp_path / "found.png"
    assert main(["query", str(photo), "--in", str(folder), "-k", "3", "--png", str(sheet)]) == 0
    said = capsys.readouterr()
    assert "13 photographs in" in said.err and "using test_resnet_gam.corel of the package instead" in said.err
    table = said.out.splitlines()
    assert table[0].split() == ["rank", "cosine", "path"] and table[1].split() == ["1", "1.0000", "class2/1.jpg"]
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG" and len(drawn.convert("RGB").getcolors(2**24) or []) > 500, "with photographs"
    assert PhotoIndex.open(folder).catalogue.count() == 13
    assert main(["query", str(photo), "--in", str(folder), "--png", str(tmp_path / "none" / "found.png")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out and "photographs in" not in said.err, "not indexed again"


def test_the_store_is_chosen_when_indexing_and_kept(folder: Path, capsys) -> None:
    pytest.importorskip("milvus_lite")
    index(folder, capsys)
    photo = folder / "class1" / "0.jpg"
    exact = query(capsys, photo, "--in", folder, "--folder", "class1")
    assert main(["index", str(folder), *MODEL, "--store", "http://127.0.0.1:1"]) == 2
    assert "is the server running" in capsys.readouterr().err
    assert PhotoIndex.open(folder).choice.address == "exact", "what failed is not kept"
    assert main(["index", str(folder), *MODEL, "--store", "milvus", "--components", "2"]) == 0
    assert "Milvus Lite will hold about" in capsys.readouterr().err
    assert index(folder, capsys)["embedded"] == 0
    assert PhotoIndex.open(folder).choice.address == "milvus"
    found = query(capsys, photo, "--in", folder, "--folder", "class1")
    assert [m["path"] for m in found] == [m["path"] for m in exact], "of 13 too few to whiten"
    index(folder, capsys, "--store", "exact")
    assert query(capsys, photo, "--in", folder, "--folder", "class1") == exact
