"""What each method takes beyond the vectors, each in a process of its own, and vectors that memory cannot hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from timm_gam.core import OutputError
from timm_gam.rerank import Recipe, UnitVectors, fit_whitening

IMAGES, DIM = 8000, 1280
BUDGET = 768 * IMAGES / 100_000
"""MB: as much for each image as --memory-budget gives 100,000."""

_MEASURE = """
import json, os, resource, sys
import torch
from timm_gam.rerank import METHODS, Recipe, fit_whitening
images, dim, budget = map(float, sys.argv[1:])
vectors, own = torch.randn(int(images), int(dim), generator=torch.Generator().manual_seed(0)), torch.arange(64)
own = own.repeat(2).sort().values[::2]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def rank(name, vectors):
    reranker = Recipe(method=name).reranker(vectors[own], vectors, own=own, memory=int(budget * 2**20 * 2 / 3))
    reranker.block(slice(0, min(len(own), reranker.rows_at_once)))
def whiten(vectors):
    recipe = Recipe(power=0.5, whitening=64).fitted(vectors[:, :256])
    recipe.prepare(vectors[:, :256], memory=2**22)
def measured(name, vectors):
    whiten(vectors) if name == "whitening" else rank(name, vectors)
for name in (names := [*METHODS, "whitening"]):
    measured(name, vectors[:300].clone())  # libraries load
for name in names:
    read, write = os.pipe()
    if os.fork() == 0:
        measured(name, vectors[:300].clone())  # a fork has yet to see the pages of libraries
        held = peak()
        measured(name, vectors)
        os.write(write, str(peak() - held).encode())
        os._exit(0)
    os.close(write)
    print(json.dumps([name, float(os.read(read, 99) or "nan")]), flush=True)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are in kilobytes on Linux")
def test_memory_grows_with_the_budget_alone() -> None:
    command = [sys.executable, "-c", _MEASURE, str(IMAGES), str(DIM), str(BUDGET)]
    # Blocks go back to the system when they are freed, as those of 100,000 images do by their size.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    lines = run.stdout.splitlines()
    peaks = dict(map(json.loads, lines))
    assert set(peaks) == {"qe", "dba", "diffusion", "k-reciprocal", "whitening"}
    assert all(peak <= BUDGET for peak in peaks.values()), peaks


def test_what_memory_cannot_hold_is_in_a_file_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    vectors, rows = torch.from_numpy(np.array(mapped)), np.arange(499, 0, -3)
    recipe = Recipe(power=0.5, whitening=8).fitted(mapped)
    expected = recipe.transform(vectors)[torch.from_numpy(rows.copy())]
    for memory in (0, 2**20):
        torch.testing.assert_close(recipe.prepare(mapped, rows=rows, memory=memory), expected)
    assert Recipe().prepare(vectors) is vectors and Recipe().prepare(vectors.half()).dtype == torch.float32
    torch.testing.assert_close(fit_whitening(mapped, 4)(vectors), fit_whitening(vectors.double(), 4)(vectors))
    monkeypatch.setattr("os.posix_fallocate", _no_room, raising=False)
    with pytest.raises(OutputError, match="raise --memory-budget"):
        recipe.prepare(mapped, memory=0)


def _no_room(*args: int) -> None:
    raise OSError(28, "No space left on device")


def test_rows_after_others() -> None:
    vectors = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    parts, whole = UnitVectors(vectors[:4]).followed_by(vectors[4:]), UnitVectors(vectors)
    rows = torch.tensor([6, 0, 4, 3])
    for found, expected in [
        (parts[rows], whole[rows]),
        (parts[2:6], whole[2:6]),
        (parts.components(slice(1, 3)), whole.components(slice(1, 3))),
        (parts.similarities(vectors), whole.similarities(vectors)),
    ]:
        torch.testing.assert_close(found, expected)
