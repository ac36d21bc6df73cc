"""kill -9 at random moments of `index`, while photographs come, move, change and go between them."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import picture
from tests.timm_gam.search.photos.conftest import MODEL
from timm_gam.search import INDEX_NAME, PhotoIndex, find_duplicates
from timm_gam.search.__main__ import main

KILLS = {"exact": 30, "milvus": 3}  # of runs that were under way; Milvus Lite takes a second to open

# Everything is imported and loaded once; each run is a fork of that, so that kills meet the update and not the start.
PREPARED = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
import timm_gam.embed.embedding_cache as store
import timm_gam.search.photos.commands as commands
import timm_gam.search.photos.update as update
from timm_gam.embed import EmbedSettings
from timm_gam.search.__main__ import main
photos, model, kind = sys.argv[1:]
update.CHUNK, store.PART_IMAGES = 8, 3
loaded = commands.load_collection(model, settings=EmbedSettings(batch_size=2, workers=0, on_unreadable="skip"))
commands.load_collection = lambda *args, **named: loaded
for line in sys.stdin:
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.dup2(2, 1)
        os._exit(main(["index", photos, "--model", model, "-j", "0", "-b", "2", "--store", kind, "--json"]))
    if float(line) > 0:
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], time.monotonic() - began, flush=True)
"""


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
    rows = [catalogue.file(path) for paths in catalogue.places().values() for path in paths]
    vectors = index.embeddings(index.collection()).read(catalogue.digests())
    return (
        sorted((f.path, f.byte_count, f.mtime_ns, facts) for f, facts in rows),
        list(map(bytes, np.array(vectors))),
        (catalogue.unreadable()),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
@pytest.mark.parametrize("store", KILLS)
def test_kills_lose_nothing_and_double_nothing(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if store == "milvus":
        pytest.importorskip("milvus_lite")
    folder = Folder(tmp_path / "photos", seed=0)
    command = [sys.executable, "-c", PREPARED, str(folder.root), MODEL, store]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as runs:

        def run(seconds: float) -> tuple[int, float]:
            assert runs.stdin is not None and runs.stdout is not None
            print(seconds, file=runs.stdin, flush=True)
            status, took = runs.stdout.readline().split()
            return int(status), float(took)

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
            status, _ = run(folder.random.uniform(0.02, max(0.05, longest)))
            killed += status == signal.SIGKILL
            now = acknowledged(folder.root)
            there = {hashlib.sha256(path.read_bytes()).digest() for path in folder.root.glob("?/*.jpg")}
            assert kept & there <= now, "what was acknowledged and is there is lost"
            kept = now
        assert run(0)[0] == 0
        runs.stdin.close()
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
    assert not list(folder.root.rglob("*.tmp"))
    (paths, scores), (of_whole, scores_of_whole) = found(folder.root), found(whole)
    assert paths == of_whole
    assert scores == pytest.approx(scores_of_whole, abs=1e-5)
    assert len(list((folder.root / INDEX_NAME / "vectors").iterdir())) == 1


def found(path: Path) -> tuple[list[str], list[float]]:
    """What each photograph finds in its index, by whatever store that has."""
    index = PhotoIndex.open(path)
    collection = index.collection()
    vectors = index.embeddings(collection).read(index.catalogue.digests())
    matches = [
        match
        for hits in index.store(collection).nearest(np.array(vectors), 5)
        for match in index.matches([(hit.digest, hit.score) for hit in hits], 5)
    ]
    return [match.photo.path for match in matches], [match.score for match in matches]


def acknowledged(root: Path) -> set[bytes]:
    """What the catalogue says there is, by digest: each once and each with its embedding."""
    index = PhotoIndex.open(root)
    digests = index.catalogue.digests()
    assert len(set(digests)) == len(digests)
    assert not index.embeddings(index.collection(), verify=True).missing(digests).any()
    return set(digests)
