"""What each re-ranking costs: seconds to prepare a gallery and per query, and peak memory, each in its own process.

    python benchmarks/scoring/reranking_scale.py --record record.json --images 10000 100000

Vectors are drawn: 100 to a cluster. Queries are gallery images, in the strict form unless it says otherwise; "whiten"
is the root and PCA-whitening to 256 dimensions, fitted on all and scored exactly. Seconds are those of the clock and
those of the processor, of all threads together: the latter change less on a machine that does other things too, least
with OMP_NUM_THREADS=1. Memory is the peak of the process above what it held with the vectors in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval import score_reranking, score_retrieval
from timm_gam.core import hardware, versions, write_json
from timm_gam.rerank import METHODS, Recipe

CLUSTER = 100
FORMS = ("strict", "transductive")


def drawn(images: int, dim: int, queries: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Vectors, the rows that are queries, and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) // CLUSTER
    centres = rng.standard_normal((images // CLUSTER, dim), dtype=np.float32)
    vectors = np.empty((images, dim), dtype=np.float32)
    for start in range(0, images, 1000):  # so that drawing takes no memory that a method could find free
        some = slice(start, start + 1000)
        vectors[some] = centres[labels[some]] + noise * rng.standard_normal((len(labels[some]), dim), dtype=np.float32)
    own = torch.from_numpy(np.sort(rng.choice(images, queries, replace=False)))
    return torch.from_numpy(vectors), own, labels


def measure(
    images: int, dim: int, queries: int, method: str, transductive: bool, budget: int, noise: float
) -> dict[str, Any]:
    """One method at one size, with `budget` MB, shared as `timm-gam score` shares it."""
    vectors, own, labels = drawn(images, dim, queries, noise)
    torch.ones(8, 8) @ torch.ones(8, 8)  # libraries load
    held, began = _peak_mb(), _clocks()
    memory = budget * 2**20
    if method == "whiten":
        recipe = Recipe(power=0.5, whitening=256).fitted(vectors)
        ranked = recipe.prepare(vectors, memory=memory // 4)
        prepared = _clocks()
        scores = score_retrieval(ranked, labels, query=own.numpy(), intervals="none", memory_budget=memory)
    else:
        recipe = Recipe(method=method, transductive=transductive)
        reranker = recipe.reranker(vectors[own], vectors, own=own, memory=memory * 2 // 3)
        prepared = _clocks()
        scores = score_reranking(
            reranker, labels[own.numpy()], labels, intervals="none", memory_budget=memory // 3
        ).scores
    ended = _clocks()
    return {
        "images": images,
        "dimensions": dim,
        "queries": queries,
        "noise": noise,
        "method": method,
        "form": "transductive" if transductive else "strict",
        "threads": torch.get_num_threads(),
        "prepare_seconds": round(prepared[0] - began[0], 2),
        "prepare_cpu_seconds": round(prepared[1] - began[1], 2),
        "ms_per_query": round(1000 * (ended[0] - prepared[0]) / queries, 2),
        "cpu_ms_per_query": round(1000 * (ended[1] - prepared[1]) / queries, 2),
        "load": round(os.getloadavg()[0], 1),
        "budget_mb": budget,
        "vectors_mb": round(vectors.nbytes / 2**20),
        "peak_mb_above_vectors": round(_peak_mb() - held),
        "map": scores.averages["map"].micro,
    }


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="JSON to write, or to add rows to")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000], metavar="N")
    parser.add_argument("--dim", type=int, default=1280, metavar="D", help="(default: %(default)s)")
    names = ["whiten", *METHODS]
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, metavar="FORM", help="(default: both)")
    parser.add_argument("--queries", type=int, default=500, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--memory-budget", type=int, default=768, metavar="MB", help="(default: %(default)s)")
    parser.add_argument(
        "--noise",
        type=float,
        default=2.5,
        metavar="X",
        help="of vectors about the centre of their cluster; fewer dimensions need less of it (default: %(default)s)",
    )
    parser.add_argument("--one", nargs=3, metavar=("N", "METHOD", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        images, method, form = args.one
        found = measure(
            int(images), args.dim, args.queries, method, form == "transductive", args.memory_budget, args.noise
        )
        print(json.dumps(found))
        return 0
    rows = json.loads(args.record.read_text())["rows"] if args.record.exists() else []
    both = {"dba", "diffusion"}  # of the others, the two forms are the same
    forms = [(name, form) for form in args.forms for name in args.methods if form == "strict" or name in both]
    for images in args.images:
        for method, form in forms:
            command = [sys.executable, __file__, "--record", str(args.record), "--queries", str(args.queries)]
            command += ["--dim", str(args.dim), "--memory-budget", str(args.memory_budget), "--noise", str(args.noise)]
            command += ["--one", str(images), method, form]
            row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
            write_json(args.record, {"versions": versions(), "hardware": hardware(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
