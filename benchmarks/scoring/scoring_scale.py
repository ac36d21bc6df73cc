"""Time and memory of exact scoring as the gallery grows: 10,000 queries, 512 dimensions, 10,000 to 1,000,000 images.

    python benchmarks/scoring/scoring_scale.py --record benchmarks/results/scoring_scale.json

The gallery is a memory-mapped file, every size is scored by a process of its own, and all metrics come from the full
ranking. The floor is the arithmetic of the matrix product by the kernel that scoring chose, over the rate measured in
the same process (benchmarks/scoring/product_floor.py), and beside it that of float64. Memory is the process's largest
resident set, pages of the mapped file included. Sizes that the record holds already are not measured again. With
matplotlib, a plot is drawn beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from product_floor import float64_rate, floor_seconds

from eval import score_retrieval
from timm_gam.core import hardware
from timm_gam.search import ExactScorer, fixed_point

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
QUERIES, DIM, CLASSES = 10_000, 512, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    record: dict[str, Any] = json.loads(args.record.read_text()) if args.record.exists() else {"sizes": {}}
    record |= {
        "what": f"{QUERIES} queries against a memory-mapped gallery, {DIM} dimensions, {CLASSES} classes, seed 0",
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    for size in args.sizes:
        if str(size) not in record["sizes"]:
            command = [sys.executable, __file__, "--record", str(args.record), "--measure", str(size)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            record["sizes"][str(size)] = json.loads(done.stdout)
            args.record.write_text(json.dumps(record, indent=1) + "\n")
        one = record["sizes"][str(size)]
        print(
            f"{size:9,} images  {one['seconds']:7.1f} s  floor {one['floor_seconds']:6.1f} s  "
            f"{one['peak_bytes'] / 2**30:.2f} GiB  {one['queries_per_second']:7.1f} queries/s"
        )
    plot(record["sizes"], args.record.with_suffix(".png"))


def measure(size: int) -> dict[str, Any]:
    labels = np.concatenate([np.arange(size), np.arange(QUERIES)]) % CLASSES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        write(path, labels)
        vectors = np.load(path, mmap_mode="r")
        query, gallery = np.arange(size, size + QUERIES), np.arange(size)
        began = time.perf_counter()
        scores = score_retrieval(vectors, labels, query=query, gallery=gallery, intervals="none")
        took = time.perf_counter() - began
        peak = peak_bytes()
        kernel = ExactScorer(fixed_point(vectors)).kernel
    return {
        "seconds": took,
        "kernel": repr(kernel),
        "floor_seconds": floor_seconds(kernel, QUERIES * size, DIM),
        "float64_floor_seconds": 2 * QUERIES * size * DIM / float64_rate(DIM),
        "queries_per_second": QUERIES / took,
        "peak_bytes": peak,
        "map": scores.averages["map"].micro,
    }


def write(path: Path, labels: NDArray[np.int64]) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, DIM)).astype(np.float32)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(labels), DIM))
    for start in range(0, len(labels), 10_000):
        rows = slice(start, start + 10_000)
        file[rows] = centres[labels[rows]] + 4 * rng.normal(size=(len(labels[rows]), DIM)).astype(np.float32)


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plot(sizes: dict[str, dict[str, float]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    counts = sorted(sizes, key=int)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("seconds", "scoring"), ("floor_seconds", "floor: the matrix product alone")):
        axes.loglog([int(count) for count in counts], [sizes[count][name] for count in counts], "o-", label=label)
    axes.set(xlabel="gallery images", ylabel="seconds", title=f"{QUERIES:,} queries, {DIM} dimensions, all metrics")
    axes.legend()
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
