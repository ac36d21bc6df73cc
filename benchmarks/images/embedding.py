"""Embedding throughput as a ratio: the whole pipeline against the bare network, and overlap with decoding.

    python benchmarks/images/embedding.py --record benchmarks/results/embedding.json

Each case in this process in turn, medians over runs; a case that is left out keeps its place in the record:

    compute_bound   small JPEG files, ResNet-50: pipeline images/s over the bare forward pass's on the same batches
    decode_bound    large JPEG files, a small network and one thread, by loader processes: pipeline time over the larger
                    of decoding alone and computing alone; 1 is perfect overlap, (decode + compute) / max is none
    curve           small JPEG files, ResNet-18: pipeline images/s over the bare forward pass's, by loader processes
                    and batch size
    shrink          drawn JPEG files of 4032 x 3024, no network, no loader processes: images/s whole and shrunk on load
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from timm_gam.core import hardware
from timm_gam.data import ImageSet, draw_synthetic, read_folder
from timm_gam.embed import EmbedSettings, embed_images, embedding_network
from timm_gam.images import Preprocessing, default_workers, resolve_preprocessing
from timm_gam.models import load_model

CASES = ("compute_bound", "decode_bound", "curve", "shrink")


class NoNetwork(nn.Module):
    """Takes batches and does nothing with them: what is left is reading, decoding and resizing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = write_jpegs(Path(folder) / "small", args.images, (96, 96))
        large = write_jpegs(Path(folder) / "large", args.images, (1600, 1600))
        huge = write_jpegs(Path(folder) / "huge", 24, (4032, 3024))
        cases = {
            "compute_bound": lambda: compute_bound(small, args.batch_size, args.runs),
            "decode_bound": lambda: decode_bound(large, args.batch_size, args.runs),
            "curve": lambda: curve(small, args.runs),
            "shrink": lambda: shrink(huge, args.batch_size, args.runs),
        }
        record = json.loads(args.record.read_text()) if args.record and args.record.exists() else {}
        for case in args.cases:
            record[case] = cases[case]()
    record |= {
        "images": args.images,
        "batch_size": args.batch_size,
        "workers": default_workers(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }
    print(json.dumps(record, indent=1))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def compute_bound(images: ImageSet, batch_size: int, runs: int) -> dict[str, object]:
    """images/s of the pipeline and of the network alone, and their ratio."""
    network, preprocessing = prepared("resnet50")
    pipeline, bare = [], []
    for _ in range(runs):
        bare.append(len(images) / forward_seconds(network, images, preprocessing, batch_size))
        pipeline.append(len(images) / embed_seconds(network, images, preprocessing, batch_size))
    return {
        "bare_images_per_second": bare,
        "pipeline_images_per_second": pipeline,
        "ratio_of_medians": statistics.median(pipeline) / statistics.median(bare),
    }


def decode_bound(images: ImageSet, batch_size: int, runs: int) -> dict[str, object]:
    """Seconds of decoding alone, computing alone, and both in the pipeline, by loader processes; one thread computes.

    With one loader process there is a core for each on two cores: with more, both are at the machine's limit already.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network, preprocessing = prepared("resnet18")
    found: dict[str, object] = {}
    for workers in (0, 1, 2):
        decode, compute, both = [], [], []
        for _ in range(runs):
            decode.append(embed_seconds(NoNetwork(), images, preprocessing, batch_size, workers))
            compute.append(forward_seconds(network, images, preprocessing, batch_size))
            both.append(embed_seconds(network, images, preprocessing, batch_size, workers))
        d, c, b = (statistics.median(x) for x in (decode, compute, both))
        found[f"{workers}_workers"] = {
            "decode_seconds": decode,
            "compute_seconds": compute,
            "pipeline_seconds": both,
            "pipeline_over_max": b / max(d, c),
            "no_overlap_over_max": (d + c) / max(d, c),
        }
    torch.set_num_threads(threads)
    return found


def curve(images: ImageSet, runs: int) -> list[dict[str, float]]:
    """images/s by batch size and loader processes, and their ratio to the bare forward pass's."""
    network, preprocessing = prepared("resnet18")
    found = []
    for batch_size in (1, 8, 32, 128):
        bare = len(images) / min(forward_seconds(network, images, preprocessing, batch_size) for _ in range(runs))
        for workers in (0, 1, 2, 4):
            seconds = min(embed_seconds(network, images, preprocessing, batch_size, workers) for _ in range(runs))
            found.append(
                {
                    "batch_size": batch_size,
                    "workers": workers,
                    "images_per_second": len(images) / seconds,
                    "over_bare": len(images) / seconds / bare,
                }
            )
    return found


def shrink(images: ImageSet, batch_size: int, runs: int) -> dict[str, float]:
    """images/s of decoding and resizing to 224 alone, whole and shrunk on load."""
    _, preprocessing = prepared("resnet18")
    shrinking = dataclasses.replace(preprocessing, shrink_on_load=True)
    whole, shrunk = (
        len(images) / min(embed_seconds(NoNetwork(), images, one, batch_size, 0) for _ in range(runs))
        for one in (preprocessing, shrinking)
    )
    return {
        "images": len(images),
        "whole_images_per_second": whole,
        "shrunk_images_per_second": shrunk,
        "ratio": shrunk / whole,
    }


def prepared(name: str) -> tuple[nn.Module, Preprocessing]:
    model = load_model(name, pretrained=False).model
    return embedding_network(model), resolve_preprocessing(model)


def embed_seconds(
    network: nn.Module, images: ImageSet, preprocessing: Preprocessing, batch_size: int, workers: int | None = None
) -> float:
    workers = default_workers() if workers is None else workers
    return embed_images(network, images, preprocessing, EmbedSettings(batch_size=batch_size, workers=workers)).seconds


def forward_seconds(network: nn.Module, images: ImageSet, preprocessing: Preprocessing, batch_size: int) -> float:
    batch = torch.randn(batch_size, *preprocessing.input_size)
    with torch.inference_mode():
        network(batch)
        began = time.perf_counter()
        for _ in range(len(images) // batch_size):
            network(batch)
    return (time.perf_counter() - began) * len(images) / (len(images) // batch_size * batch_size)


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> ImageSet:
    """Drawn images as JPEG files of (width, height) pixels."""
    synthetic = draw_synthetic()
    rows = np.linspace(0, len(synthetic) - 1, count).astype(int).tolist()
    for row, image in synthetic.reader.read(rows):
        assert isinstance(image, Image.Image)
        path = folder / f"{synthetic.ids[row]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size).save(path, quality=90)
    return read_folder(folder)


if __name__ == "__main__":
    main()
