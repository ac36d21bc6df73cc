"""What each re-ranking costs: seconds to prepare a gallery and per query, and peak memory, each in its own process.

    python benchmarks/reranking_scale.py --record record.json --images 10000 100000

Vectors are drawn: 100 to a cluster, 512 dimensions. Queries are gallery images, in the strict form unless it says
otherwise. Memory is the peak of the process above what it held with the vectors in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval import score_reranking
from timm_gam.core import hardware, versions, write_json
from timm_gam.rerank import METHODS, Recipe

DIM, CLUSTER = 512, 100


def measure(images: int, queries: int, method: str, transductive: bool, budget: int) -> dict[str, Any]:
    """One method at one size, with `budget` MB."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) // CLUSTER
    centres = rng.standard_normal((images // CLUSTER, DIM), dtype=np.float32)
    vectors = torch.from_numpy(centres[labels] + 2.5 * rng.standard_normal((images, DIM), dtype=np.float32))
    own = torch.from_numpy(np.sort(rng.choice(images, queries, replace=False)))
    torch.ones(8, 8) @ torch.ones(8, 8)  # libraries load
    held, began = _peak_mb(), time.perf_counter()
    recipe = Recipe(method=method, transductive=transductive)
    reranker = recipe.reranker(vectors[own], vectors, own=own, memory=budget * 2**20 * 2 // 3)
    prepared = time.perf_counter()
    found = score_reranking(reranker, labels[own.numpy()], labels, intervals="none", memory_budget=budget * 2**20 // 3)
    return {
        "images": images,
        "queries": queries,
        "method": method,
        "form": "transductive" if transductive else "strict",
        "prepare_seconds": round(prepared - began, 2),
        "ms_per_query": round(1000 * (time.perf_counter() - prepared) / queries, 2),
        "budget_mb": budget,
        "vectors_mb": round(vectors.nbytes / 2**20),
        "peak_mb_above_vectors": round(_peak_mb() - held),
        "map": found.scores.averages["map"].micro,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="JSON to write, or to add rows to")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000], metavar="N")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--queries", type=int, default=500, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--memory-budget", type=int, default=768, metavar="MB", help="(default: %(default)s)")
    parser.add_argument("--one", nargs=3, metavar=("N", "METHOD", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        images, method, form = args.one
        found = measure(int(images), args.queries, method, form == "transductive", args.memory_budget)
        print(json.dumps(found))
        return 0
    rows = json.loads(args.record.read_text())["rows"] if args.record.exists() else []
    both = {"dba", "diffusion"}  # of the others, the two forms are the same
    forms = [(name, form) for name in args.methods for form in ("strict", "transductive")[: 1 + (name in both)]]
    for images in args.images:
        for method, form in forms:
            command = [sys.executable, __file__, "--record", str(args.record), "--queries", str(args.queries)]
            command += ["--memory-budget", str(args.memory_budget), "--one", str(images), method, form]
            row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
            write_json(args.record, {"dimensions": DIM, "versions": versions(), "hardware": hardware(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
