"""Measure on one GPU: exact scoring against the card's float64 peak and its machine's CPU, and GAM's inference.

    python benchmarks/gpu.py --record benchmarks/results/gpu_h200.json

In under three minutes. Scoring: every metric of 10,000 x 2048, 50,000 x 2048 and 100,000 x 512, embeddings on the card,
and the ranks alone; the first also on the CPU, with the metrics compared digit for digit. The peak is the best of
large float64 matrix products. Inference: images/s of ResNet50, plain and with GAM, in bfloat16, eager and by
`timm_gam.optimize`, and of GAM's two 7x7 convolutions alone at each stage, as they stand and in other forms, as a share
of the bfloat16 peak: which of them holds GAM back. The record is written after every part. `--quick` tries the script
itself, on any device, with tiny networks and a tenth of the sizes.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

import timm_gam
from eval import rank_relevant, score_retrieval
from timm_gam.core import hardware, versions
from timm_gam.inference import TapConv2d
from timm_gam.search import ExactScorer, fixed_point

STAGES = {56: 256, 28: 512, 14: 1024, 7: 2048}  # map size: channels of GAM in a ResNet50 at 224 px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--memory-budget", type=int, default=8192, metavar="MB")
    parser.add_argument("--quick", action="store_true", help="try the script itself")
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet50_gam"])
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    device, small = torch.device(args.device), 10 if args.quick else 1
    record: dict[str, Any] = {"hardware": hardware(), "versions": versions(), "quick": args.quick}
    record |= {name: [] for name in ("scoring", "convolutions", "inference")}

    def keep(part: str, found: dict[str, Any]) -> None:
        print(json.dumps(found), flush=True)
        record[part].append(found)
        if args.record:
            args.record.write_text(json.dumps(record, indent=1) + "\n")

    record["float64_flops"] = peak(torch.float64, device, 8192 // small)
    record["bfloat16_flops"] = peak(torch.bfloat16, device, 16384 // small**2)
    budget = args.memory_budget * 2**20
    for count, dim, first in ((10_000, 2048, True), (50_000, 2048, False), (100_000, 512, False)):
        sizes = count // small, dim // small
        keep("scoring", scoring(*sizes, device, budget, record["float64_flops"], on_cpu=first))
    batch = 2 if args.quick else args.batch_size
    for size, channels in (STAGES if not args.quick else {7: 64}).items():
        keep("convolutions", convolutions(size, channels, batch, device, record["bfloat16_flops"]))
    for name in ["test_resnet", "test_resnet_gam"] if args.quick else args.models:
        keep("inference", inference(name, batch, 64 if args.quick else 224, device))


def seconds(work: Callable[[], object], device: torch.device, runs: int = 3) -> float:
    """Median after one run that warms up."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def peak(dtype: torch.dtype, device: torch.device, side: int) -> float:
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / seconds(lambda: a @ a, device, 5)


def scoring(
    count: int, dim: int, device: torch.device, budget: int, float64_flops: float, *, on_cpu: bool
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 100
    centres = rng.normal(size=(100, dim))
    vectors = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 1000):
        rows = slice(start, start + 1000)
        vectors[rows] = centres[labels[rows]] + 6 * rng.normal(size=vectors[rows].shape)
    there = torch.from_numpy(vectors).to(device)
    scorer = ExactScorer(fixed_point(there), device=device)

    def ranks() -> None:
        list(rank_relevant(scorer, labels, labels, self_index=np.arange(count), memory_budget=budget))

    def whole(values: Any = there) -> Any:
        return score_retrieval(values, labels, intervals="none", memory_budget=budget)

    flops = 2.0 * count**2 * dim
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ranked, scored = seconds(ranks, device), seconds(whole, device)
    found: dict[str, Any] = {
        "count": count,
        "dim": dim,
        "products": scorer.products,
        "ranks_seconds": ranked,
        "metrics_seconds": scored,
        "ranks_share_of_float64_peak": flops / ranked / float64_flops,  # of all products, half of which are computed
        "metrics_share_of_float64_peak": flops / scored / float64_flops,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }
    if on_cpu:
        cpu = seconds(lambda: whole(vectors), torch.device("cpu"), 2)
        one, other = whole().per_query, whole(vectors).per_query
        found |= {
            "cpu_seconds": cpu,
            "cpu_over_ranks": cpu / ranked,
            "cpu_over_metrics": cpu / scored,
            "same_digits_as_cpu": all(np.array_equal(one[name], other[name], equal_nan=True) for name in one),
        }
    return found


def inference(name: str, batch: int, size: int, device: torch.device) -> dict[str, Any]:
    model = timm.create_model(name, num_classes=0).eval().to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def eager() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(x)  # type: ignore[no-any-return]

    network = timm_gam.optimize(model, dtype=torch.bfloat16)
    print(f"{name}: compiling for its first batch, up to a minute", flush=True)
    began = time.perf_counter()
    network(x)
    compile_seconds = time.perf_counter() - began
    runs = 10 if batch > 2 else 1
    rates = {
        "eager": batch / seconds(eager, device, runs),
        "optimized": batch / seconds(lambda: network(x), device, runs),
    }
    return {
        "model": name,
        "batch": batch,
        "images_per_second": rates,
        "first_batch_seconds": compile_seconds,
        "applied": network.applied,
    }


def convolutions(size: int, channels: int, batch: int, device: torch.device, bfloat16_flops: float) -> dict[str, Any]:
    """Share of peak of C -> C/16 -> C by 7x7: cuDNN in both layouts, and as one product over gathered columns."""
    x = torch.randn(batch, channels, size, size, device=device, dtype=torch.bfloat16)
    down = nn.Conv2d(channels, channels // 16, 7, padding=3).to(device, torch.bfloat16)
    up = nn.Conv2d(channels // 16, channels, 7, padding=3).to(device, torch.bfloat16)
    flops = 2.0 * batch * size**2 * channels * (channels // 16) * 49
    narrow = torch.randn(batch, channels // 16, size, size, device=device, dtype=torch.bfloat16)

    def columns(conv: nn.Conv2d, values: Tensor) -> Callable[[], Tensor]:
        """Products with the 49 taps first where the output is narrow, shifts and sums after; patches first if not."""
        if conv.in_channels > conv.out_channels:
            taps = conv.weight.permute(2, 3, 0, 1).reshape(-1, conv.in_channels, 1, 1)
            return lambda: nn.functional.fold(
                nn.functional.conv2d(values, taps).view(batch, 49, conv.out_channels, -1).transpose(1, 2).flatten(1, 2),
                size,
                7,
                padding=3,
            )
        weight = conv.weight.flatten(1)
        return lambda: weight @ nn.functional.unfold(values, 7, padding=3)

    shares = {}
    with torch.inference_mode():
        for name, conv, values in (("down", down, x), ("up", up, narrow)):
            last, taps = (each.to(memory_format=torch.channels_last) for each in (values, TapConv2d(conv)))
            forms: dict[str, Callable[[], object]] = {
                "nchw": lambda c=conv, v=values: c(v),  # type: ignore[misc]
                "channels_last": lambda c=conv, v=last: nn.functional.conv2d(  # type: ignore[misc]
                    v, c.weight.to(memory_format=torch.channels_last), c.bias, padding=3
                ),
                "product": columns(conv, values),
                "taps": functools.partial(taps, last),
                "taps_compiled": functools.partial(torch.compile(taps, dynamic=False), last),
            }
            shares |= {
                f"{name}_{form}": flops / seconds(work, device, 5) / bfloat16_flops for form, work in forms.items()
            }
    return {"size": size, "channels": channels, "share_of_bfloat16_peak": shares}


if __name__ == "__main__":
    main()
