"""A whole run: data, model, epochs with validation, checkpoints, and the test split at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timm_gam.core import (
    DataError,
    Interrupted,
    RunFolderError,
    TrainError,
    World,
    hardware,
    join_world,
    note_signals,
    versions,
)
from timm_gam.data import ImageSet, read_images
from timm_gam.images import (
    Preprocessing,
    cache_decoded,
    data_fingerprint,
    digest_images,
    quiet_deaths,
    resolve_preprocessing,
)
from timm_gam.inference import compiler_errors
from timm_gam.train.loop import Trainer, peak_memory_mb
from timm_gam.train.output.checkpoint import Position, load_state, save_state, save_tensors
from timm_gam.train.output.curves import draw_curves
from timm_gam.train.output.progress import Progress
from timm_gam.train.output.run_folder import RunFolder
from timm_gam.train.recipe import Recipe
from timm_gam.train.split import TrainingSplit, split_for_training
from timm_gam.train.start import SCRATCH, start_model
from timm_gam.train.step.batches import EpochLoader
from timm_gam.train.step.objective import create_objective
from timm_gam.train.step.optimizer import freeze
from timm_gam.train.validation import SELECTION_METRIC, Evaluator, Result, validate

__all__ = ["train"]


def train(
    recipe: Recipe,
    path: Path,
    evaluator: Evaluator[Result],
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Result | None:
    """Train by a recipe into a run folder, and score the test split with the best weights.

    Under torchrun every process calls this alike; the first writes and speaks.

    Args:
        recipe: Of a resumed run, its own.
        path: The run folder; see `timm_gam.train.output.run_folder`.
        evaluator: Scores validation and test; `eval.RetrievalEvaluator()`.
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
        _machine_errors(),
        quiet_deaths(),
    ):
        images = read_images(
            recipe.data_dir,
            recipe.dataset,
            image_column=recipe.image_column,
            label_column=recipe.label_column,
            id_column=recipe.id_column,
        )
        split = split_for_training(images, recipe.val_share)
        _check_batch(recipe, split, len(np.unique(images.labels[split.train])), world)
        # A resumed run has all of its weights in its state; its start may be gone.
        model, start = start_model(replace(recipe, start=SCRATCH) if resume else recipe, len(images.class_names))
        frozen = freeze(model, recipe.freeze)
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)
        if world.leads:
            _open_folder(folder, recipe, images, split, asdict(start), resume)
        decoded = cache_decoded(images, _rows(split), recipe.cache_images * 2**20)
        loader = EpochLoader(decoded, split.train, preprocessing, recipe, world)
        objective = create_objective(model, recipe, len(images.class_names))
        trainer = Trainer(objective, preprocessing, recipe, world, len(images.class_names), loader.updates_per_epoch)
        position = Position()
        if resume:
            position = load_state(folder.state, trainer.modules, trainer.optimizer, trainer.scaler)
            trainer.go_on_from(position)
            if world.leads:
                _export(folder, trainer, position)
        if world.leads:
            count = sum(p.numel() for p in model.parameters())
            since = f"resumed in epoch {position.epoch + 1}" if resume else f"start: {start.kind}, {start.source}"
            say(
                f"{recipe.model}: {count:,} parameters ({frozen:,} frozen), {since}; "
                f"{images.name}: {len(split.train)} train, {len(split.validation)} validation, "
                f"{len(split.test.query)} test"
            )
        with Progress(recipe, position, loader.updates_per_epoch, show=world.leads, say=say) as progress:
            _train_epochs(trainer, loader, decoded, split, preprocessing, folder, position, progress, evaluator)
        if not world.leads:
            return None
        if not draw_curves(folder.curves, position.rows, recipe.model):
            say("no curves.png: matplotlib is not installed; pip install 'timm-gam[train]'")
        note = (
            f"weights of epoch {position.best_epoch} of {recipe.epochs}, chosen by validation mAP "
            f"{position.best_map:.4f}; the test split was read once, after training"
        )
        return evaluator.test(folder, recipe, images, split, device=str(world.device), note=note)


def _train_epochs(
    trainer: Trainer,
    loader: EpochLoader,
    images: ImageSet,
    split: TrainingSplit,
    preprocessing: Preprocessing,
    folder: RunFolder,
    position: Position,
    progress: Progress,
    evaluator: Evaluator[object],
) -> None:
    recipe, world = trainer.recipe, trainer.world

    def save() -> None:
        if world.leads:
            save_state(folder.state, position, trainer.modules, trainer.optimizer, trainer.scaler)

    with note_signals() as request:
        while position.epoch < recipe.epochs:
            lr = trainer.first_lr(position)
            batches = loader.batches(position.epoch, position.update)
            while position.update < loader.updates_per_epoch:
                until = _next_save(position.update, recipe.save_every, loader.updates_per_epoch)
                on_update = partial(progress.update, memory_mb=peak_memory_mb(world.device))
                if not trainer.train(batches, position, until, request, on_update):
                    save()
                    raise Interrupted(request.signal or signal.SIGTERM)
                if until < loader.updates_per_epoch:
                    save()
            row = _row(recipe, position, lr, world)
            if (position.epoch + 1) % recipe.validate_every == 0 or position.epoch + 1 == recipe.epochs:
                scores = validate(trainer.kept_model, evaluator, images, split, preprocessing, recipe, world)
                row.update({f"val_{name}": value for name, value in scores.items()})
                if scores[SELECTION_METRIC] > position.best_map:
                    position.best_epoch, position.best_map = position.epoch + 1, scores[SELECTION_METRIC]
            position.rows.append(row)
            position.epoch, position.update, position.loss_sum, position.seconds = position.epoch + 1, 0, 0.0, 0.0
            save()
            if world.leads:
                _export(folder, trainer, position)
            progress.epoch(row)
            # Several processes agree on the next update, but the first one alone reads the test split.
            if request.signal is not None and (world.size == 1 or position.epoch == recipe.epochs):
                raise Interrupted(request.signal)


def _next_save(update: int, every: int, updates_per_epoch: int) -> int:
    return min(updates_per_epoch, (update // every + 1) * every) if every else updates_per_epoch


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


def _export(folder: RunFolder, trainer: Trainer, position: Position) -> None:
    """Write what others read from the state just saved: metrics, and weights of the last and the best epoch."""
    folder.write_metrics(position.rows)
    if position.update:
        return  # between epochs' ends the weights of the last whole epoch stay
    tensors = trainer.kept_model.state_dict()
    about = {"model": trainer.recipe.model, "epoch": position.epoch}
    if position.best_epoch == position.epoch:
        save_tensors(folder.best, tensors, {**about, f"val_{SELECTION_METRIC}": position.best_map})
    save_tensors(folder.last, tensors, about)


def _open_folder(
    folder: RunFolder, recipe: Recipe, images: ImageSet, split: TrainingSplit, start: dict[str, Any], resume: bool
) -> None:
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


def _check_batch(recipe: Recipe, split: TrainingSplit, classes: int, world: World) -> None:
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


def _rows(split: TrainingSplit) -> Any:
    return np.union1d(split.train, split.validation)


@contextmanager
def _machine_errors() -> Iterator[None]:
    """Within: running out of memory, or losing a loader process, is one line that says what to do."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = (str(error).splitlines() or ["no memory left"])[0]
        raise TrainError(
            f"out of memory ({reason}); halve --batch-size and double --accumulate, in a new run"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainError(
            f"a loader process ended ({str(error).splitlines()[0]}); lower --workers, then --resume"
        ) from error


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
