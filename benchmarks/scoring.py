"""Time exact scoring of 10,000 x 2048, leave-one-out, against its floor and against pytorch-metric-learning.

    python benchmarks/scoring.py --record benchmarks/results/scoring.json

Ours computes every metric of `eval.metrics` over the full ranking. The peer's AccuracyCalculator computes its own
subset, precision@1, R-precision and mAP@R, in two settings: its default of all neighbours (k=None), and the least
that this subset needs (k="max_bin_count": as many neighbours as the largest class). All run in this process, in
turn, on the same embeddings; the figures to quote are the ratios. The floor is the arithmetic of half a float64 matrix
product (the scores are symmetric), N x N x D / 2 multiply-adds, over the matrix-product rate measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from eval.scoring import score_retrieval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    labels = np.arange(args.images) % args.classes
    centres = rng.normal(size=(args.classes, args.dim))
    vectors = (centres[labels] + 6 * rng.normal(size=(args.images, args.dim))).astype(np.float32)

    full, least = peer_calculator(None), peer_calculator("max_bin_count")
    peer_vectors, peer_labels = torch.from_numpy(vectors), torch.from_numpy(labels)
    times: dict[str, list[float]] = {"ours": [], "peer_all_neighbours": [], "peer_fewest_neighbours": []}
    for _ in range(args.runs):
        times["ours"].append(seconds(lambda: score_retrieval(vectors, labels, replicates=0)))
        times["peer_all_neighbours"].append(seconds(lambda: full.get_accuracy(peer_vectors, peer_labels)))
        times["peer_fewest_neighbours"].append(seconds(lambda: least.get_accuracy(peer_vectors, peer_labels)))
    ours, peer_full, peer_least = (statistics.median(each) for each in times.values())
    rate = matmul_rate(args.dim)
    floor = args.images**2 * args.dim / rate
    record = {
        "what": f"leave-one-out scoring, {args.images} x {args.dim}, {args.classes} classes, seed 0",
        "seconds": times,
        "peer_all_neighbours_over_ours": peer_full / ours,
        "peer_fewest_neighbours_over_ours": peer_least / ours,
        "floor_seconds": floor,
        "floor_over_ours": floor / ours,
        "float64_matmul_gflops": rate / 1e9,
        "cores": os.cpu_count(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    print(f"ours, all metrics      {ours:6.2f} s   floor {floor:.2f} s")
    print(f"peer, all neighbours   {peer_full:6.2f} s   {peer_full / ours:.2f} times ours")
    print(f"peer, fewest           {peer_least:6.2f} s   {peer_least / ours:.2f} times ours")
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def peer_calculator(k: str | None) -> AccuracyCalculator:
    return AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k=k,
        knn_func=CustomKNN(CosineSimilarity(), batch_size=1000),
    )


def matmul_rate(dim: int) -> float:
    """Float64 operations per second of one large matrix product, the best of five."""
    a, b = np.random.default_rng(0).normal(size=(2, 2048, dim))
    return 2 * 2048 * 2048 * dim / min(seconds(lambda: a @ b.T) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
