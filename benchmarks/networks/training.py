"""Training throughput as a ratio to a bare timm loop, and as a share of what the machine can compute.

    python benchmarks/networks/training.py --record benchmarks/results/training.json

Same model, batch, precision, augmentation, worker processes and threads, in this process in turn. Ratios are medians
over runs of the ratio within a run, so that other work on the machine meets both sides:

    bare      timm's create_loader and a plain loop: forward, backward, optimizer, scheduler; nothing is saved or scored
    ours      the package's loader and trainer, decoded images cached (its default)
    uncached  the same without that cache: every image is decoded in every epoch, as in the bare loop
    no input  the plain loop on one batch that is there already
    input     the package's loader alone, cached: above `no input`, it is not what limits training

Model FLOPs utilisation: floating-point operations of forward and backward, counted by torch, per second of `ours`, over
those of a large matrix product of the same precision and threads in the same process.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageDataset, create_loader
from torch.utils.flop_counter import FlopCounterMode

from timm_gam.core import StopRequest, World
from timm_gam.data import ImageSet, draw_synthetic, read_folder
from timm_gam.images import Preprocessing, cache_decoded, resolve_preprocessing
from timm_gam.train import (
    Batch,
    Position,
    Recipe,
    Trainer,
    create_objective,
    create_optimization,
    split_for_training,
    start_model,
    training_batches,
)

Measure = Callable[[int], float]
"""Trains for a number of updates; returns seconds."""

CASES = (
    ("test_resnet_gam", 64, 64, 20),
    ("test_resnet", 96, 64, 20),
    ("resnet50_gam", 64, 16, 2),
)
"""Model, image size, batch size, updates per measurement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1, so that a loader has a core)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        images = write_photos(Path(folder))
        cases = [case(images, Path(folder), args, *numbers) for numbers in CASES]
    record = {
        "cases": cases,
        "images": len(images),
        "device": args.device,
        "accelerator": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "threads": args.threads,
        "workers": args.workers,
        "runs": args.runs,
        "cores": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[2], 2),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }
    print(json.dumps(record, indent=1))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def case(
    images: ImageSet, folder: Path, args: argparse.Namespace, model: str, size: int, batch_size: int, updates: int
) -> dict[str, object]:
    """images/s of the loops and their ratios for one model."""
    recipe = Recipe(
        model=model, start="scratch", img_size=size, batch_size=batch_size, amp=True, channels_last=True, epochs=1000,
        workers=args.workers, device=args.device,
    )  # fmt: skip
    preprocessing = resolve_preprocessing(start_model(recipe, len(images.class_names))[0], img_size=size)
    loops: dict[str, Measure] = {
        "bare": bare(folder, preprocessing, recipe, len(images.class_names)),
        "ours": ours(images, preprocessing, recipe, 2**30),
        "uncached": ours(images, preprocessing, recipe, 0),
        "no_input": no_input(preprocessing, recipe, len(images.class_names)),
        "input": loading(images, preprocessing, recipe),
    }
    for loop in loops.values():
        loop(2)  # start loader processes, fill caches
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(args.runs):
        for name, loop in loops.items():
            seconds[name].append(loop(updates))
    speed = {name: [round(updates * batch_size / s, 1) for s in times] for name, times in seconds.items()}

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(speed[one], speed[other], strict=True)), 3)

    flops, peak = training_flops(recipe, preprocessing, len(images.class_names)), peak_flops(recipe)
    return {
        "model": model,
        "img_size": size,
        "batch_size": batch_size,
        "precision": recipe.amp_dtype,
        "images_per_second": speed,
        "ours_over_bare": ratio("ours", "bare"),
        "uncached_over_bare": ratio("uncached", "bare"),
        "ours_over_no_input": ratio("ours", "no_input"),
        "input_over_no_input": ratio("input", "no_input"),
        "gflop_per_image": round(flops / 1e9, 4),
        "peak_gflops": round(peak / 1e9, 1),
        "model_flops_utilisation": round(flops * statistics.median(speed["ours"]) / peak, 3),
    }


def ours(images: ImageSet, preprocessing: Preprocessing, recipe: Recipe, cache: int) -> Measure:
    """The package's own loop."""
    split = split_for_training(images, recipe.val_share)
    world = World(0, 1, torch.device(recipe.device or "cpu"))
    model, _ = start_model(recipe, len(images.class_names))
    decoded = cache_decoded(images, split.train, cache)
    batches = endless_batches(decoded, split.train, preprocessing, recipe, world)
    updates_per_epoch = len(split.train) // (recipe.batch_size * recipe.accumulate)
    objective = create_objective(model, recipe, len(images.class_names))
    trainer = Trainer(objective, preprocessing, recipe, world, len(images.class_names), updates_per_epoch)
    position = Position()

    def measure(updates: int) -> float:
        began = time.perf_counter()
        while updates > 0:
            until = min(position.update + updates, updates_per_epoch)
            updates -= until - position.update
            trainer.train(batches, position, StopRequest(), lambda loss: None, partial(_has_done, position, until))
            if until == updates_per_epoch:
                position.epoch, position.update, position.loss_sum = position.epoch + 1, 0, 0.0
        return time.perf_counter() - began

    return measure


def _has_done(position: Position, updates: int) -> bool:
    return position.update >= updates


def endless_batches(
    images: ImageSet, train: NDArray[np.int64], preprocessing: Preprocessing, recipe: Recipe, world: World
) -> Iterator[Batch]:
    """As in a run, from processes that live as long as this one."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(training_batches(images, train, preprocessing, replace(recipe, epochs=10**9), world))


def loading(images: ImageSet, preprocessing: Preprocessing, recipe: Recipe) -> Measure:
    """The package's loader with nothing behind it."""
    split = split_for_training(images, recipe.val_share)
    world = World(0, 1, torch.device(recipe.device or "cpu"))
    decoded = cache_decoded(images, split.train, 2**30)
    batches = endless_batches(decoded, split.train, preprocessing, recipe, world)

    def measure(updates: int) -> float:
        began = time.perf_counter()
        for _ in islice(batches, updates):
            pass
        return time.perf_counter() - began

    return measure


def bare(folder: Path, preprocessing: Preprocessing, recipe: Recipe, num_classes: int) -> Measure:
    """timm's loader and a plain loop."""
    loader = create_loader(
        ImageDataset(str(folder)), preprocessing.input_size, recipe.batch_size, is_training=True, use_prefetcher=False,
        scale=recipe.scale, hflip=recipe.hflip, color_jitter=recipe.color_jitter,
        interpolation=preprocessing.interpolation, mean=preprocessing.mean, std=preprocessing.std,
        num_workers=recipe.workers,
    )  # fmt: skip

    def forever() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    return plain_loop(forever(), recipe, num_classes)


def no_input(preprocessing: Preprocessing, recipe: Recipe, num_classes: int) -> Measure:
    """The plain loop on one batch in memory."""
    pixels = torch.randn(recipe.batch_size, *preprocessing.input_size)
    labels = torch.arange(recipe.batch_size) % num_classes

    def forever() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield pixels, labels

    return plain_loop(forever(), recipe, num_classes)


def plain_loop(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe, num_classes: int) -> Measure:
    device = torch.device(recipe.device or "cpu")
    model = timm.create_model(recipe.model, num_classes=num_classes).to(device).to(memory_format=torch.channels_last)
    optimizer, scheduler = create_optimization(model.train(), recipe, updates_per_epoch=100)

    def measure(updates: int) -> float:
        began = time.perf_counter()
        for update, (pixels, labels) in enumerate(islice(batches, updates)):
            pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.autocast(device.type, dtype=getattr(torch, recipe.amp_dtype)):
                loss = F.cross_entropy(model(pixels), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(update)
        loss.item()
        return time.perf_counter() - began

    return measure


def training_flops(recipe: Recipe, preprocessing: Preprocessing, num_classes: int) -> float:
    """Floating-point operations of forward and backward for one image."""
    model = timm.create_model(recipe.model, num_classes=num_classes).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, *preprocessing.input_size)).sum().backward()
    return counter.get_total_flops() / 2


def peak_flops(recipe: Recipe, side: int = 2048, runs: int = 10) -> float:
    """Operations per second of the fastest of some square matrix products."""
    a = torch.randn(side, side, dtype=getattr(torch, recipe.amp_dtype), device=recipe.device)
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def write_photos(folder: Path) -> ImageSet:
    """720 drawn images as JPEG files the size of COREL thumbnails."""
    drawn = draw_synthetic()
    for row, image in drawn.reader.read(range(len(drawn))):
        assert isinstance(image, Image.Image)
        path = folder / f"{drawn.ids[row]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((120, 80)).save(path, quality=90)
    return read_folder(folder)


if __name__ == "__main__":
    main()
