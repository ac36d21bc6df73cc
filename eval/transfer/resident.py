"""Training over images that lie on the device, decoded once: cropped, flipped and normalised there.

Small runs over small images on a GPU are bound by decoding and by launches, not by arithmetic. Here the whole image
set is one uint8 tensor on the device, a batch is one gather and one `grid_sample`, and an update may be one CUDA graph.
Crops are drawn as timm draws them (area, ratio, place, flip), sampled bilinearly, without colour jitter. A run writes
nothing until it is whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.backends import cudnn

from eval.transfer.device_images import DeviceImages
from eval.transfer.measuring import TransferEvaluator, embed_pixels
from timm_gam.core import Interrupted, RecipeError, StopRequest, TimmGamError, join_world, note_signals
from timm_gam.data import ImageSet
from timm_gam.images import DecodeLimits, Preprocessing, resolve_preprocessing
from timm_gam.models import save_tensors
from timm_gam.train import (
    Batch,
    Position,
    Recipe,
    Trainer,
    TrainingSplit,
    create_objective,
    epoch_order,
    seed_for,
    set_training_mode,
    split_for_training,
    start_model,
)

_NEAR = 0.02  # of the loss and of a gradient's norm, between a graph and the same work launched anew, in bfloat16
_time = time.time
_last: dict[Any, DeviceImages] = {}
_UNSUPPORTED = {"aa": None, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0, "color_jitter": 0.0, "ema_decay": None,
                "accumulate": 1}  # fmt: skip


class TimeUpError(TimmGamError):
    """The experiment's time was up before the run's end."""


def train_resident(
    recipe: Recipe,
    images: ImageSet,
    evaluator: TransferEvaluator,
    *,
    graphs: bool = False,
    deadline: float = float("inf"),
    keep: Path | None = None,
) -> None:
    """Train by a recipe over images on the device, and measure the best weights.

    Args:
        recipe: Random crops and flips are its only augmentation.
        images: The image set.
        evaluator: Validates, and measures the best weights.
        graphs: Capture the update as a CUDA graph; where that fails or gives another loss, go on without.
        deadline: `time.time()` at which to give up.
        keep: Write the best weights here.

    Raises:
        TimeUpError: the deadline passed.
        Interrupted: asked to end.
        TimmGamError: what training raises.
    """
    for name, legal in _UNSUPPORTED.items():
        if getattr(recipe, name) != legal:
            raise RecipeError(f"{name} is {getattr(recipe, name)!r}; with --resident only {legal!r} is legal")
    with join_world(recipe.device, advice="the same command goes on") as world, note_signals() as stop:
        split = split_for_training(images, recipe.val_share, recipe.test_split)
        model, _ = start_model(recipe, len(images.class_names))
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)
        pixels = _on_device(images, preprocessing, world.device, recipe.limits)
        objective = create_objective(model, recipe, len(images.class_names))
        updates = len(split.train) // recipe.batch_size
        trainer = Trainer(objective, preprocessing, recipe, world, len(images.class_names), updates)
        first = next(_batches(pixels, split.train, recipe, 0))
        graphed = graphs and world.device.type == "cuda" and capture_updates(trainer, first)
        evaluator.values["graphs"] = graphed
        best = _train(trainer, pixels, split, evaluator, stop, deadline)
        model.load_state_dict(best)
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(keep, model.state_dict(), {"model": recipe.model})
        evaluator.measure(model.eval(), partial(_seen, pixels, preprocessing), images.labels, split)


def _on_device(
    images: ImageSet, preprocessing: Preprocessing, device: torch.device, limits: DecodeLimits
) -> DeviceImages:
    """The pixels of an image set; a process keeps those of its last one."""
    key = images.name, images.ids, preprocessing, device, limits
    if key not in _last:
        _last.clear()
        _last[key] = DeviceImages.load(images, preprocessing, device, limits)
    return _last[key]


def capture_updates(trainer: Trainer, batch: Batch) -> bool:
    """Replace the forward and backward pass of a trainer's updates by graphs, for batches shaped like `batch`.

    Weights, statistics and gradients are afterwards as they were. The graphs are used only where loss and gradients
    of the batch are those of the ordinary pass.

    Returns:
        Whether it was done.
    """
    objective = trainer.objective
    set_training_mode(objective)
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    pixels, target = trainer._prepared(batch, (0, 0, 0))
    dtype = getattr(torch, trainer.recipe.amp_dtype)
    cudnn.benchmark, cudnn.benchmark_limit = True, 4
    try:
        # Weights are cast within the graph: a cast that autocast kept from outside would never see an update.
        with torch.autocast("cuda", dtype=dtype, enabled=trainer.recipe.amp, cache_enabled=False):
            ordinary = _loss_and_norm(trainer, pixels, target)
            torch.cuda.make_graphed_callables(objective, (pixels, target))
        captured = _loss_and_norm(trainer, pixels, target)
        same = bool(((captured - ordinary).abs() <= _NEAR * ordinary.abs()).all())
    except RuntimeError:
        same = False
    if not same:
        objective.__dict__.pop("forward", None)
    trainer.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in objective.named_buffers():
            buffer.copy_(before[name])
    return same


def _loss_and_norm(trainer: Trainer, pixels: Tensor, target: Tensor) -> Tensor:
    """(2,) float32: the loss of a batch and the norm of its gradient."""
    trainer.optimizer.zero_grad(set_to_none=True)
    loss = trainer.objective(pixels, target)
    loss.backward()
    norms = [p.grad.norm() for p in trainer.objective.parameters() if p.grad is not None]
    return torch.stack([loss.detach().float(), torch.stack(norms).norm()])


def _train(
    trainer: Trainer,
    pixels: DeviceImages,
    split: TrainingSplit,
    evaluator: TransferEvaluator,
    stop: StopRequest,
    deadline: float,
) -> dict[str, Tensor]:
    """All epochs; the weights of the best one, on the device."""
    recipe, position, best = trainer.recipe, Position(), dict[str, Tensor]()
    while position.epoch < recipe.epochs:
        lr = trainer.first_lr(position)
        # cuDNN times its algorithms for the shapes of training; validation's other shapes are not worth it.
        cudnn.benchmark, cudnn.benchmark_limit = trainer.world.device.type == "cuda", 4
        batches = _batches(pixels, split.train, recipe, position.epoch)
        if not trainer.train(batches, position, stop, lambda loss: None, pause=lambda: _time() > deadline):
            raise Interrupted(stop.signal or 15)
        cudnn.benchmark = False
        if position.update < trainer.updates_per_epoch:
            raise TimeUpError("the experiment's time is up")
        row = {name: float(value) for name, value in trainer.end_epoch(position, lr).items()}
        if position.epoch % recipe.validate_every == 0 or position.epoch == recipe.epochs:
            seen = _seen(pixels, trainer.preprocessing, split.validation)
            with torch.autocast(trainer.world.device.type, torch.bfloat16, recipe.amp):
                vectors = embed_pixels(trainer.kept_model.eval(), seen)
            scores = evaluator.validate(vectors, pixels.labels[split.validation])
            row.update({f"val_{name}": value for name, value in scores.items()})
            if scores["map"] > position.best_map:
                position.best_epoch, position.best_map = position.epoch, scores["map"]
                best = {name: tensor.detach().clone() for name, tensor in trainer.kept_model.state_dict().items()}
        evaluator.epochs.append(row)
    return best


def _batches(pixels: DeviceImages, train: NDArray[np.int64], recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """The augmented batches of an epoch, drawn from its seed alone."""
    generator = np.random.Generator(np.random.PCG64(seed_for(recipe.seed, "augment", epoch)))
    boxes, flips = pixels.random_crops(train, recipe.scale, recipe.hflip, generator)
    for places in epoch_order(pixels.labels[train], recipe, epoch)[:, 0]:
        rows = train[places]
        labels = torch.from_numpy(pixels.labels[rows]).to(pixels.seen.device)
        yield Batch(pixels.crop(rows, boxes[places], flips[places]), labels)


def _seen(pixels: DeviceImages, preprocessing: Preprocessing, rows: NDArray[np.int64]) -> Tensor:
    """(N, 3, H, W) float32: the rows as evaluation sees them."""
    return preprocessing.normalise(pixels.seen[torch.from_numpy(rows).to(pixels.seen.device)])
