"""Time exact scoring of 10,000 x 2048, leave-one-out, against its floor and against pytorch-metric-learning.

    python benchmarks/scoring/scoring.py --record benchmarks/results/scoring.json
    python benchmarks/scoring/scoring.py --images 50000 --no-peer --record benchmarks/results/scoring_50000.json

Ours computes every metric of `eval.scoring` over the full ranking. The peer's AccuracyCalculator computes precision@1,
R-precision and mAP@R in three settings: as it comes, with all neighbours (k=None) by FAISS; the same by torch, which is
faster on some machines; and by torch the least that these need (k="max_bin_count": as many neighbours as the largest
class). In a fourth, as it comes, it computes mAP and MRR too: all of its metrics that are of a ranking.

All run in this process, in turn, on the same embeddings; the figures to quote are the ratios. The floor is the
arithmetic of half a matrix product (the scores are symmetric), over the matrix-product rate measured in the same run:
of the kernel that scoring chose, and of float64. The peer keeps all scores and takes gigabytes; with --no-peer it is
left out.
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
from product_floor import float64_rate, floor_seconds
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN
from scoring_scale import peak_bytes

from eval import score_retrieval
from timm_gam.core import hardware
from timm_gam.search import ExactScorer, fixed_point


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave pytorch-metric-learning out")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()

    vectors, labels = clustered(args.images, args.dim, args.classes)
    by_torch = CustomKNN(CosineSimilarity(), batch_size=1000)
    by_faiss = FaissKNN()  # of distances, so of vectors of length 1
    peer_vectors, peer_labels = torch.nn.functional.normalize(torch.from_numpy(vectors)), torch.from_numpy(labels)
    peers = {
        "peer_as_it_comes": peer_calculator(None, by_faiss),
        "peer_every_ranking_metric": peer_calculator(None, by_faiss, "mean_average_precision", "mean_reciprocal_rank"),
        "peer_all_neighbours": peer_calculator(None, by_torch),
        "peer_fewest_neighbours": peer_calculator("max_bin_count", by_torch),
    }
    before = peak_bytes()
    work: dict[str, Callable[[], object]] = {"ours": lambda: score_retrieval(vectors, labels, intervals="none")}
    work["ours"]()  # chooses its kernel
    ours_bytes = peak_bytes() - before
    for name, peer in peers.items() if args.peer else ():
        work[name] = lambda peer=peer: peer.get_accuracy(peer_vectors, peer_labels)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(args.runs):
        for name, each in work.items():
            times[name].append(seconds(each))
    median = {name: statistics.median(each) for name, each in times.items()}
    kernel = ExactScorer(fixed_point(vectors)).kernel
    floor = floor_seconds(kernel, args.images**2 / 2, args.dim)
    float64_floor = args.images**2 * args.dim / float64_rate(args.dim)
    record = {
        "what": f"leave-one-out scoring, {args.images} x {args.dim}, {args.classes} classes, seed 0",
        "seconds": times,
        **{f"{name}_over_ours": median[name] / median["ours"] for name in work if name != "ours"},
        "kernel": repr(kernel),
        "floor_seconds": floor,
        "ours_over_floor": median["ours"] / floor,
        "float64_floor_seconds": float64_floor,
        "ours_over_float64_floor": median["ours"] / float64_floor,
        "ours_bytes_above_embeddings": ours_bytes,
        "hardware": hardware(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    print(f"ours, all metrics         {median['ours']:6.2f} s   {ours_bytes / 2**20:.0f} MiB   {kernel}")
    print(f"floor                     {floor:6.2f} s   ours is {median['ours'] / floor:.2f} times it")
    print(f"floor in float64          {float64_floor:6.2f} s   ours is {median['ours'] / float64_floor:.2f} times it")
    for name in work:
        if name != "ours":
            print(f"{name:25} {median[name]:6.2f} s   {median[name] / median['ours']:.2f} times ours")
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def clustered(images: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, dim) float32 vectors around as many centres as there are classes, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, dim))
    vectors = np.empty((images, dim), dtype=np.float32)
    for start in range(0, images, 1000):
        rows = slice(start, start + 1000)
        vectors[rows] = centres[labels[rows]] + 6 * rng.normal(size=vectors[rows].shape)
    return vectors, labels


def peer_calculator(k: str | None, knn: Callable[..., object], *more: str) -> AccuracyCalculator:
    include = ("precision_at_1", "r_precision", "mean_average_precision_at_r", *more)
    return AccuracyCalculator(include=include, k=k, knn_func=knn)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
