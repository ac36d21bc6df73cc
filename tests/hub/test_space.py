"""The search page of an index as a Space: pushed to the loopback Hub, pulled from it, started and asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import SpaceCard, snapshot_download
from PIL import Image

from hub.space import main
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from tests.timm_gam.search.photos.conftest import MODEL, free_port, index_photos

REPO = "me/find"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index_photos(write_class_folders(tmp_path_factory.mktemp("space") / "photos"))


def asked(address: str, path: str, data: bytes | None = None) -> bytes:
    with urlopen(Request(address + path, data, {"Host": "me-find.spaces.example"}), timeout=20) as answer:
        return bytes(answer.read())


def test_a_space_is_published_once_and_starts(
    indexed: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    command = [str(indexed), "--repo", REPO, "--license", "cc-by-4.0"]
    assert main([*command, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "dry run: nothing was sent" in capsys.readouterr().out and ("spaces", REPO) not in hub.repositories
    assert main(command) == 0
    assert f"/spaces/{REPO}" in capsys.readouterr().out
    assert main(command) == 0
    assert "(nothing to change)" in capsys.readouterr().out, "the same photographs are the same bytes"
    pulled = Path(snapshot_download(REPO, repo_type="space", local_dir=tmp_path / "pulled"))
    assert (pulled / "app.py").read_bytes() == (tmp_path / "out" / "app.py").read_bytes()
    card = SpaceCard((pulled / "README.md").read_text()).data
    assert (card.sdk, card.app_port, card.license) == ("docker", 7860, "cc-by-4.0")
    assert "timm-gam[search]==" in (pulled / "requirements.txt").read_text()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(pulled / "app.py")], env={**os.environ, "PORT": str(port), "HOST": "127.0.0.1"}
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(3000):  # a machine that is busy may take its time
            try:
                page = asked(address, "/").decode()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        assert MODEL in page
        photo = indexed / "class1" / "2.jpg"
        name = json.loads(asked(address, "/photos", photo.read_bytes()))["id"]
        found = json.loads(asked(address, f"/search?like={name}&count=3"))["photos"]
        assert len(found) == 3
        assert asked(address, f"/originals/{found[0]['id']}") == (indexed / found[0]["path"]).read_bytes()
    finally:
        process.kill()
        process.wait()


def test_what_may_not_be_published_is_refused(
    indexed: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_class_folders(tmp_path / "photos")
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    with Image.open(photos / "class0" / "0.jpg") as image:
        image.save(photos / "class0" / "here.jpg", exif=exif)
    index_photos(photos)
    command = [str(photos), "--repo", REPO, "--license", "mit", "--dry-run", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "1 photographs tell where they were taken (EXIF GPS), the first is 'class0/here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--with-places"]) == 0
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    (photos / "class0" / "1.jpg").write_bytes(b"other")
    assert main([*command[:-1], str(tmp_path / "other"), "--with-places"]) == 2
    assert "'class0/1.jpg' is not what was indexed" in capsys.readouterr().err
    assert main(["nowhere", "--repo", REPO, "--license", "mit"]) == 2
    assert "holds no index" in capsys.readouterr().err
