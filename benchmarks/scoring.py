"""Time exact scoring of 10,000 x 2048, leave-one-out, against its floor and against pytorch-metric-learning.

    python benchmarks/scoring.py --record benchmarks/results/scoring.json

Ours computes every metric of `eval.metrics` over the full ranking. The peer's AccuracyCalculator computes its own
subset over the full ranking: precision@1, R-precision and mAP@R. Both run in this process, in turn, on the same
embeddings; the figure to quote is the ratio. The floor is the arithmetic of one float64 matrix product, N x N x D
multiply-adds, over the matrix-product rate measured in the same run.
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

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity(), batch_size=1000),
    )
    peer_vectors, peer_labels = torch.from_numpy(vectors), torch.from_numpy(labels)
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(args.runs):
        ours.append(seconds(lambda: score_retrieval(vectors, labels, replicates=0)))
        peer.append(seconds(lambda: calculator.get_accuracy(peer_vectors, peer_labels)))
    rate = matmul_rate(args.dim)
    floor = 2 * args.images**2 * args.dim / rate
    record = {
        "what": f"leave-one-out scoring, {args.images} x {args.dim}, {args.classes} classes, seed 0",
        "ours_seconds": ours,
        "pytorch_metric_learning_seconds": peer,
        "ratio_of_medians": statistics.median(peer) / statistics.median(ours),
        "floor_seconds": floor,
        "share_of_floor": floor / statistics.median(ours),
        "float64_matmul_gflops": rate / 1e9,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    print(f"ours {statistics.median(ours):.2f} s (all metrics), peer {statistics.median(peer):.2f} s (its subset)")
    print(f"ratio {record['ratio_of_medians']:.2f}x; floor {floor:.2f} s, {record['share_of_floor']:.0%} of it")
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


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
