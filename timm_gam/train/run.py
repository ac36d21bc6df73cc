"""A whole run: data, model, epochs with validation, checkpoints, and the test split at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from timm_gam.core import (
    Interrupted,
    World,
    hardware,
    hold_folder,
    join_world,
    note_signals,
    peak_memory_mb,
    print_line,
    printable,
    sweep,
    versions,
    write_json,
    write_text,
)
from timm_gam.data import ImageSet
from timm_gam.embed import embedding_network
from timm_gam.images import (
    cache_decoded,
    digest_images,
    memory_errors,
    resolve_preprocessing,
)
from timm_gam.inference import compiler_errors
from timm_gam.models import TrainingRecord, read_training_record
from timm_gam.train.checks import check_batch, check_images
from timm_gam.train.data import Fingerprints, TrainingData, read_training_data
from timm_gam.train.loop import Trainer
from timm_gam.train.output.checkpoint import Position, load_state, refuse_other_recipe
from timm_gam.train.output.curves import draw_curves
from timm_gam.train.output.progress import Progress, show_progress
from timm_gam.train.output.run_folder import RunFolder
from timm_gam.train.output.saving import Saver
from timm_gam.train.recipe import Recipe
from timm_gam.train.start import SCRATCH, Start, start_model
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
    log: Callable[[str], None] = print_line,
) -> Result | None:
    """Train by a recipe into a run folder, and score the test split with the best weights.

    Under torchrun every process calls this alike; the first writes and speaks.

    Args:
        recipe: Of a resumed run, its own.
        path: The run folder; see `timm_gam.train.output.run_folder`.
        evaluator: Scores validation and test; `eval.RetrievalEvaluator()`.
        images: Train on these instead of those that the recipe names; the same again to resume.
        resume: Go on from the folder's state.
        log: Takes each line for the reader.

    Returns:
        The test result in the first process; None in others, and where there is no test split.

    Raises:
        TimmGamError: anything that is refused or ends the run; what the folder holds stays good.
        Interrupted: asked to end by Ctrl-C or SIGTERM; the state is saved.
    """
    folder = RunFolder(path)
    with (
        join_world(recipe.device, advice="--resume goes on") as world,
        _determinism(recipe.deterministic),
        compiler_errors(recipe.torchcompile),
        memory_errors("halve --batch-size and double --accumulate, in a new run"),
        ExitStack() as held,
    ):
        data = read_training_data(recipe, images)
        check_batch(recipe, data, world)
        # A resumed run has all of its weights in its state; its start may be gone.
        model, start = start_model(replace(recipe, start=SCRATCH) if resume else recipe, data.classes)
        embedding_network(model)  # says now, not after an epoch, where it cannot be validated
        frozen = freeze(model, recipe.freeze)
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)
        found = _check_and_open(folder, recipe, data, start, world, held, resume=resume)
        rows = np.union1d(data.split.train, data.split.validation)
        data = replace(data, images=cache_decoded(data.images, rows, recipe.cache_images * 2**20, recipe.limits))
        updates = len(data.split.train) // (recipe.batch_size * recipe.accumulate)
        objective = create_objective(model, recipe, data.classes)
        trainer = Trainer(objective, preprocessing, recipe, world, data.classes, updates)
        position = Position()
        if resume:
            position = load_state(folder.state, trainer.modules, trainer.optimizer, trainer.scaler)
            trainer.start_at(position)
        earlier = read_training_record(folder.state) if resume else start.training
        record = TrainingRecord(preprocessing.of_weights(), *found.images).with_images_of(earlier)
        saver = Saver(folder, trainer, position, record)
        if resume:
            saver.resumed()
        with show_progress(recipe, position, updates, show=world.leads, log=log) as progress:
            since = f"resumed in epoch {position.epoch + 1}" if resume else f"start: {start.kind}, {start.source}"
            size = f"{sum(p.numel() for p in model.parameters()):,} parameters ({frozen:,} frozen)"
            progress.log(f"{recipe.model.partition('.')[0]}: {size}, {since}; {printable(str(data))}")
            if not record.keeps_images:
                progress.log("warning: over two million images: the weights will not say which they were trained on")
            for line in data.warnings:
                progress.log(f"warning: {printable(line)}")
            _train_epochs(trainer, data, position, saver, progress, evaluator)
        if not world.leads:
            return None
        if not draw_curves(folder.curves, position.rows, recipe.model):
            log("no curves.png: matplotlib is not installed; pip install 'timm-gam[train]'")
        if data.split.test is None:
            log(f"no test split was scored; the best weights are {folder.best}")
            return None
        note = (
            f"weights of epoch {position.best_epoch} of {recipe.epochs}, chosen by validation mAP "
            f"{position.best_map:.4f}; the test split was read once, after training"
        )
        return evaluator.test(folder, recipe, data.images, data.split, device=str(world.device), note=note)


def _train_epochs(
    trainer: Trainer,
    data: TrainingData,
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
            memory = round(peak_memory_mb(world.device), 1)
            row = {**trainer.end_epoch(position, lr), "memory_mb": memory}
            if position.epoch % recipe.validate_every == 0 or position.epoch == recipe.epochs:
                scores = validate(trainer.kept_model, evaluator, data.images, data.split, preprocessing, recipe, world)
                row.update({f"val_{name}": value for name, value in scores.items()})
                if scores[SELECTION_METRIC] > position.best_map:
                    position.best_epoch, position.best_map = position.epoch, scores[SELECTION_METRIC]
                    saver.keep_best()
            position.rows.append(row)
            saver.end_epoch()
            progress.epoch(row)
            # Several processes agree on the next update.
            if stop.signal is not None and world.size == 1 and position.epoch < recipe.epochs:
                saver.save()
                raise Interrupted(stop.signal)
    if stop.signal is not None:  # all is saved, and the first process alone reads the test split
        raise Interrupted(stop.signal)


def _check_and_open(
    folder: RunFolder,
    recipe: Recipe,
    data: TrainingData,
    start: Start,
    world: World,
    held: ExitStack,
    *,
    resume: bool,
) -> Fingerprints:
    """Look at all images, and make the folder of a new run or compare with what a resumed one was trained on and by;
    the folder is held in `held`."""
    rows = data.split.rows
    if not resume:
        folder.refuse_run()
        found = Fingerprints.of(data, rows, check_images(data, rows, recipe, world))
        if world.leads:
            held.enter_context(folder.started())
            write_text(folder.config, recipe.as_yaml())
            write_json(folder.environment, {"versions": versions(), "hardware": hardware()})
            write_json(folder.data, {**data.record(found), "start": start.as_dict()})
        return found
    if world.leads:
        held.enter_context(hold_folder(folder.path))
    refuse_other_recipe(folder.state, recipe)
    known = folder.read_json(folder.data)
    found = Fingerprints.of(data, rows, digest_images(data.images, rows, world))
    found.refuse_others(known, data, folder.path)
    if found.all != known.get("fingerprint"):  # what is tested on was repaired, and nobody looked at it yet
        check_images(data, rows, recipe, world)
    if world.leads:
        sweep(folder.path)
        write_json(folder.data, {**data.record(found), "start": known.get("start")})
    return found


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
