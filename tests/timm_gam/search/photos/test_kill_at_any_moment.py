"""kill -9 at random moments of `index`, while photographs come, move, change and go between them."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import picture
from tests.processes import start
from tests.timm_gam.search.photos.conftest import MODEL
from timm_gam.embed import EmbedSettings, embedding_cache
from timm_gam.search import INDEX_NAME, PhotoIndex, find_duplicates, load_collection
from timm_gam.search.__main__ import main
from timm_gam.search.photos import commands, update

KILLS = {"exact": 30, "milvus": 3}  # of runs that were under way; Milvus Lite takes a second to open


def prepared(photos: str, kind: str, asked: Connection) -> None:
    """Load the network once; each run is a fork of that, so that kills meet the update and not the start."""
    torch.set_num_threads(1)
    if kind == "milvus":
        import pymilvus  # noqa: F401
    update.CHUNK, embedding_cache.PART_IMAGES = 8, 3
    loaded = load_collection(MODEL, settings=EmbedSettings(batch_size=2, workers=0, on_unreadable="skip"))
    commands.load_collection = lambda *args, **named: loaded
    while (seconds := asked.recv()) is not None:
        began, child = time.monotonic(), os.fork()
        if child == 0:
            os._exit(main(["index", photos, "--model", MODEL, "-j", "0", "-b", "2", "--store", kind, "--json"]))
        if seconds > 0:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        asked.send((os.waitpid(child, 0)[1], time.monotonic() - began))


class Folder:
    """Photographs that change."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.made = root, random.Random(seed), 0
        for _ in range(12):
            self.add()

    def add(self) -> None:
        path = self.root / f"{self.made % 3}" / f"{self.made}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.draw(path)

    def draw(self, path: Path) -> None:
        picture(self.made).resize((48, 32)).save(path)
        self.made += 1

    def change(self) -> None:
        """Three come, one moves, one is another, one goes, and some cannot be read."""
        for _ in range(3):
            self.add()
        moved, changed, gone = self.random.sample(sorted(self.root.glob("?/*.jpg")), 3)
        moved.rename(moved.with_name(f"moved-{self.made}.jpg"))
        self.draw(changed)
        gone.unlink()
        (self.root / f"broken{self.made % 4}.jpg").write_bytes(b"no image")


def contents(index: PhotoIndex) -> tuple[list[tuple[object, ...]], list[bytes], dict[str, str]]:
    catalogue = index.catalogue
    rows = [photo for photos in catalogue.contents() for photo in photos]
    vectors = index.embeddings(index.collection()).read(catalogue.digests())
    return (
        sorted(map(astuple, rows)),
        list(map(bytes, np.array(vectors))),
        (catalogue.unreadable()),
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the process that is killed: a network's sums differ by the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
@pytest.mark.parametrize("store", KILLS)
def test_kills_lose_nothing_and_double_nothing(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if store == "milvus":
        pytest.importorskip("milvus_lite")
    folder = Folder(tmp_path / "photos", seed=0)
    runs, asked = multiprocessing.Pipe()
    with start(prepared, str(folder.root), store, asked, said=tmp_path / "said"), runs:
        asked.close()

        def run(seconds: float) -> tuple[int, float]:
            runs.send(seconds)
            return runs.recv()

        assert run(0)[0] == 0
        folder.change()
        status, longest = run(0)
        assert status == 0
        kept = acknowledged(folder.root)
        killed = tries = 0
        while killed < KILLS[store]:
            tries += 1
            assert tries < 5 * KILLS[store], "most runs end before they are killed"
            folder.change()
            status, took = run(folder.random.uniform(0.02, max(0.05, longest)))
            if status == signal.SIGKILL:
                killed += 1
            else:
                longest = took  # the machine was busier when that was measured
            now = acknowledged(folder.root)
            there = {hashlib.sha256(path.read_bytes()).digest() for path in folder.root.glob("?/*.jpg")}
            assert kept & there <= now, "what was acknowledged and is there is lost"
            kept = now
        assert run(0)[0] == 0
    capsys.readouterr()
    assert main(["index", str(folder.root), "-j", "0", "-b", "2", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [again[name] for name in ("new", "changed", "moved", "deleted", "embedded")] == [0] * 5
    whole = tmp_path / "whole"
    assert main(["index", str(folder.root), "--index", str(whole), "--model", MODEL, "-j", "0", "-b", "2"]) == 0
    one, two = PhotoIndex.open(folder.root), PhotoIndex.open(whole)
    assert contents(one) == contents(two)
    assert find_duplicates(one) == find_duplicates(two)
    (part,) = one.embeddings(one.collection()).parts()
    assert part.digests == one.catalogue.digests(), "each once, in one file"
    # Milvus Lite leaves its own until it writes again.
    assert not [path for path in folder.root.rglob("*.tmp") if "milvus.db" not in path.parts]
    for scores, of_whole in zip(found(folder.root), found(whole), strict=True):
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert scores == pytest.approx(of_whole, abs=1e-5)  # those that are that near stand in either order
    assert len(list((folder.root / INDEX_NAME / "vectors").iterdir())) == 1


def ends_within_an_index(photos: str) -> int:
    """Index, and be killed when half of an index is on disk."""
    faiss = importlib.import_module("faiss")
    write = faiss.write_index

    def write_half(index: object, path: str) -> None:
        write(index, path)
        os.truncate(path, Path(path).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    faiss.write_index = write_half
    return main(["index", photos, "--model", MODEL, "-j", "0", "--store", "milvus"])


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_half_of_an_index_of_milvus_lite_is_none(tmp_path: Path) -> None:
    """It takes a file that is there for a whole one, and failed with it from then on."""
    pytest.importorskip("milvus_lite")
    folder = Folder(tmp_path / "photos", seed=0)
    with start(ends_within_an_index, str(folder.root), said=tmp_path / "said") as process:
        process.join(300)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    assert main(["index", str(folder.root), "--model", MODEL, "-j", "0", "--store", "milvus"]) == 0
    assert len(found(folder.root)) == 12
    assert not list(folder.root.rglob("*.tmp"))


def found(path: Path) -> list[dict[str, float]]:
    """The score of every photograph for each one in its index, best first, by whatever store that has."""
    index = PhotoIndex.open(path)
    collection, digests = index.collection(), index.catalogue.digests()
    vectors, count = index.embeddings(collection).read(digests), len(digests)
    return [
        {match.photo.path: match.score for match in index.matches([(hit.digest, hit.score) for hit in hits], count)}
        for hits in index.store(collection).nearest(np.array(vectors), count)
    ]


def acknowledged(root: Path) -> set[bytes]:
    """What the catalogue says there is, by digest: each once and each with its embedding."""
    index = PhotoIndex.open(root)
    digests = index.catalogue.digests()
    assert len(set(digests)) == len(digests)
    assert not index.embeddings(index.collection(), verify=True).missing(digests).any()
    return set(digests)
