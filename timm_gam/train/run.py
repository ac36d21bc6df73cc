"""A whole run: data, model, epochs with validation, checkpoints, and the test split at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from timm_gam.core import (
    DataError,
    Interrupted,
    RunFolderError,
    World,
    hardware,
    join_world,
    note_signals,
    peak_memory_mb,
    versions,
)
from timm_gam.data import ImageSet, read_images
from timm_gam.images import (
    cache_decoded,
    data_fingerprint,
    digest_images,
    memory_errors,
    resolve_preprocessing,
)
from timm_gam.inference import compiler_errors
from timm_gam.train.loop import Trainer
from timm_gam.train.output.checkpoint import Position, load_state
from timm_gam.train.output.curves import draw_curves
from timm_gam.train.output.progress import Progress
from timm_gam.train.output.run_folder import RunFolder
from timm_gam.train.output.saving import Saver
from timm_gam.train.recipe import Recipe
from timm_gam.train.split import TrainingSplit, split_for_training
from timm_gam.train.start import SCRATCH, start_model
from timm_gam.train.step.batches import training_batches
from timm_gam.train.step.objective import create_objective
from timm_gam.train.step.optimizer import freeze
from timm_gam.train.validation import SELECTION_METRIC, Evaluator, Result, validate


def train(
    recipe: Recipe,
    path: Path,
    evaluator: Evaluator[Result],
    *,
    images: ImageSet | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Result | None:
    """Train by a recipe into a run folder, and score the test split with the best weights.

    Under torchrun every process calls this alike; the first writes and speaks.

    Args:
        recipe: Of a resumed run, its own.
        path: The run folder; see `timm_gam.train.output.run_folder`.
        evaluator: Scores validation and test; `eval.RetrievalEvaluator()`.
        images: Train on these instead of those that the recipe names; the same again to resume.
        resume: Go on from the folder's state.
        say: Takes each line for the reader.

    Returns:
        The test result in the first process, None in others.

    Raises:
        TimmGamError, TimmGamError: anything that is refused or ends the run; what the folder holds stays good.
        Interrupted: asked to end by Ctrl-C or SIGTERM; the state is saved.
    """
    folder = RunFolder(path)
    with (
        join_world(recipe.device, advice="--resume goes on") as world,
        _determinism(recipe.deterministic),
        compiler_errors(recipe.torchcompile),
        memory_errors("halve --batch-size and double --accumulate, in a new run"),
    ):
        data = _read_data(recipe, images)
        _check_batch(recipe, data, world)
        # A resumed run has all of its weights in its state; its start may be gone.
        model, start = start_model(replace(recipe, start=SCRATCH) if resume else recipe, data.classes)
        frozen = freeze(model, recipe.freeze)
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)
        if world.leads:
            _open_folder(folder, recipe, data, asdict(start), resume)
        rows = np.union1d(data.split.train, data.split.validation)
        data = replace(data, images=cache_decoded(data.images, rows, recipe.cache_images * 2**20))
        updates = len(data.split.train) // (recipe.batch_size * recipe.accumulate)
        objective = create_objective(model, recipe, data.classes)
        trainer = Trainer(objective, preprocessing, recipe, world, data.classes, updates)
        position = Position()
        if resume:
            position = load_state(folder.state, trainer.modules, trainer.optimizer, trainer.scaler)
            trainer.go_on_from(position)
        saver = Saver(folder, trainer, position)
        if resume:
            saver.resumed()
        with Progress(recipe, position, updates, show=world.leads, say=say) as progress:
            since = f"resumed in epoch {position.epoch + 1}" if resume else f"start: {start.kind}, {start.source}"
            progress.say(f"{_describe(model, frozen)}, {since}; {data}")
            _train_epochs(trainer, data, position, saver, progress, evaluator)
        if not world.leads:
            return None
        if not draw_curves(folder.curves, position.rows, recipe.model):
            say("no curves.png: matplotlib is not installed; pip install 'timm-gam[train]'")
        note = (
            f"weights of epoch {position.best_epoch} of {recipe.epochs}, chosen by validation mAP "
            f"{position.best_map:.4f}; the test split was read once, after training"
        )
        return evaluator.test(folder, recipe, data.images, data.split, device=str(world.device), note=note)


@dataclass(frozen=True)
class _Data:
    images: ImageSet
    split: TrainingSplit

    @property
    def classes(self) -> int:
        return len(self.images.class_names)

    def __str__(self) -> str:
        split = self.split
        sizes = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test.query)} test"
        return f"{self.images.name}: {sizes}"


def _read_data(recipe: Recipe, images: ImageSet | None) -> _Data:
    if images is None:
        images = read_images(
            recipe.data_dir,
            recipe.dataset,
            image_column=recipe.image_column,
            label_column=recipe.label_column,
            id_column=recipe.id_column,
        )
    return _Data(images, split_for_training(images, recipe.val_share))


def _describe(model: nn.Module, frozen: int) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{model.pretrained_cfg['architecture']}: {count:,} parameters ({frozen:,} frozen)"  # type: ignore[index]


def _train_epochs(
    trainer: Trainer,
    data: _Data,
    position: Position,
    saver: Saver,
    progress: Progress,
    evaluator: Evaluator[object],
) -> None:
    recipe, world, preprocessing = trainer.recipe, trainer.world, trainer.preprocessing
    on_update = partial(progress.update, device=world.device)
    with (
        note_signals() as stop,
        training_batches(
            data.images, data.split.train, preprocessing, recipe, world, epoch=position.epoch, update=position.update
        ) as batches,
    ):
        while position.epoch < recipe.epochs:
            lr = trainer.first_lr(position)
            while position.update < trainer.updates_per_epoch:
                if not trainer.train(batches, position, stop, on_update, pause=saver.is_due):
                    saver.save()
                    raise Interrupted(stop.signal or signal.SIGTERM)
                if position.update < trainer.updates_per_epoch:
                    saver.save()
            row = _row(recipe, position, lr, world)
            position.epoch += 1
            if position.epoch % recipe.validate_every == 0 or position.epoch == recipe.epochs:
                scores = validate(trainer.kept_model, evaluator, data.images, data.split, preprocessing, recipe, world)
                row.update({f"val_{name}": value for name, value in scores.items()})
                if scores[SELECTION_METRIC] > position.best_map:
                    position.best_epoch, position.best_map = position.epoch, scores[SELECTION_METRIC]
                    saver.keep_best()
            position.rows.append(row)
            position.update, position.loss_sum, position.seconds = 0, 0.0, 0.0
            saver.end_epoch()
            progress.epoch(row)
            # Several processes agree on the next update, but the first one alone reads the test split.
            if stop.signal is not None and (world.size == 1 or position.epoch == recipe.epochs):
                saver.save()
                raise Interrupted(stop.signal)


def _row(recipe: Recipe, position: Position, lr: float, world: World) -> dict[str, float]:
    """The epoch's row of metrics.csv, without validation."""
    images = position.update * recipe.batch_size * recipe.accumulate
    return {
        "epoch": position.epoch + 1,
        "lr": lr,
        "train_loss": position.loss_sum / position.update,
        "images_per_second": round(images / position.seconds, 1),
        "seconds": round(position.seconds, 3),
        "memory_mb": round(peak_memory_mb(world.device), 1),
    }


def _open_folder(folder: RunFolder, recipe: Recipe, data: _Data, start: dict[str, Any], resume: bool) -> None:
    images, split = data.images, data.split
    rows = np.arange(len(images), dtype=np.int64)
    fingerprint = data_fingerprint(images, rows, digest_images(images, rows))
    if resume:
        known = folder.read_json(folder.data).get("fingerprint")
        if known != fingerprint:
            raise RunFolderError(
                f"'{folder.path}' was trained on images with fingerprint {str(known)[:12]}, and '{images.name}' now "
                f"has {fingerprint[:12]}: give it the same images, or start anew in another folder"
            )
        folder.sweep()
        return
    folder.start()
    folder.write_text(folder.config, recipe.as_yaml())
    folder.write_json(folder.environment, {"versions": versions(), "hardware": hardware()})
    folder.write_json(
        folder.data,
        {
            "name": images.name,
            "fingerprint": fingerprint,
            "class_names": list(images.class_names),
            "split_rule": split.test.split_rule,
            "validation_rule": split.validation_rule,
            "images": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test.query)},
            "start": start,
        },
    )


def _check_batch(recipe: Recipe, data: _Data, world: World) -> None:
    split, classes = data.split, len(np.unique(data.images.labels[data.split.train]))
    per_update = recipe.batch_size * recipe.accumulate
    if per_update > len(split.train):
        raise DataError(
            f"an update takes {recipe.batch_size} x {recipe.accumulate} images and there are {len(split.train)} to "
            "train on: lower --batch-size or --accumulate"
        )
    if recipe.batch_size % world.size:
        raise DataError(f"batch size {recipe.batch_size} is no multiple of the {world.size} processes that share it")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size // world.size % 2:
        raise DataError(f"mixup and cutmix pair images; batch size {recipe.batch_size} leaves a process an odd number")
    if recipe.loss == "cross-entropy":
        return
    if recipe.batch_size % recipe.per_class:
        raise DataError(f"batch size {recipe.batch_size} is no multiple of per_class {recipe.per_class}")
    if recipe.batch_size > recipe.per_class * classes:
        raise DataError(
            f"a batch of {recipe.batch_size} with {recipe.per_class} of a class needs more than {classes} classes: "
            "lower --batch-size, or raise per_class"
        )


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Deterministic kernels within; the settings from before afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
