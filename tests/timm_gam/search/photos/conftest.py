"""A folder of photographs, its index, and its page served on the loopback interface."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers import free_port, write_class_folders
from timm_gam.embed import EmbedSettings
from timm_gam.search import PhotoIndex, load_collection, update_index

MODEL = "test_resnet_gam.corel"


def index_photos(root: Path) -> Path:
    """Index a folder by the tiny model; returns the folder."""
    collection, embedder = load_collection(MODEL, settings=EmbedSettings(workers=0, on_unreadable="skip"))
    update_index(PhotoIndex.create(root), collection, embedder)
    return root


def write_photos(root: Path) -> Path:
    """12 photographs in 3 folders and one that has a date and lies on its side."""
    write_class_folders(root)
    exif = Image.Exif()
    exif[274], exif[306] = 6, "2019:06:21 10:00:00"
    Image.new("RGB", (80, 50), "red").save(root / "class0" / "dated.jpg", exif=exif)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def _indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_photos(tmp_path_factory.mktemp("indexed") / "photos")
    return index_photos(root)


@pytest.fixture
def indexed(_indexed: Path, tmp_path: Path) -> Path:
    """`folder` with an index, to do with as one likes."""
    return shutil.copytree(_indexed, tmp_path / "indexed", symlinks=True, copy_function=shutil.copy2)


@contextmanager
def served(root: Path, **options: Any) -> Iterator[str]:
    """The address of a page that is served meanwhile."""
    uvicorn = pytest.importorskip("uvicorn")
    from timm_gam.search.page.app import search_app
    from timm_gam.search.page.server import _listen

    listening = _listen("127.0.0.1", 0)
    config = uvicorn.Config(search_app(PhotoIndex.open(root), **options), log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def milvus_server(folder: Path) -> Iterator[str]:
    """The address of a Milvus Lite that is served over its network protocol meanwhile, on the loopback interface."""
    pytest.importorskip("milvus_lite")
    port = free_port()
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder / "data")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(3000):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
