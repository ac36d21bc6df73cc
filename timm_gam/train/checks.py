"""What is wrong with the data, found before the first epoch and not after the last one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import DataError, World, progress_bar
from timm_gam.images import Digests, default_workers, load_batches, no_pixels
from timm_gam.train.data import TrainingData
from timm_gam.train.recipe import Recipe

_AT_ONCE = 64


def check_batch(recipe: Recipe, data: TrainingData, world: World) -> None:
    """Make sure that the training images fill the recipe's batches.

    Raises:
        DataError: they do not.
    """
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


def check_images(data: TrainingData, rows: NDArray[np.int64], recipe: Recipe, world: World) -> Digests:
    """Decode all of these rows, each in one process, and look at the classes of validation and test.

    Returns:
        A digest of each.

    Raises:
        DataError: in every process: what is wrong, one clause for each kind of fault.
    """
    workers = default_workers(world.device) if recipe.workers is None else recipe.workers
    digests = Digests.none(len(rows))
    mine = np.arange(world.rank, len(rows), world.size)
    failures: list[tuple[int, str]] = []
    with (
        progress_bar("checking", "img", len(mine), show=world.leads) as advance,
        load_batches(
            data.images.reader,
            rows[mine],
            no_pixels,
            batch_size=_AT_ONCE,
            workers=workers,
            shrink=_small,
            limits=recipe.limits,
        ) as batches,
    ):
        for batch in batches:
            digests.table[mine[batch.places]] = Digests.of(batch.digests).table
            failures += [(int(rows[mine[place]]), reason) for place, reason in batch.failures]
            advance(len(batch.places) + len(batch.failures))
    found = world.gather((len(failures), min(failures, default=None)))
    faults = _faults_of_classes(data)
    if unreadable := sum(number for number, _ in found):
        row, reason = min(first for _, first in found if first is not None)
        what = f"{unreadable} images cannot" if unreadable > 1 else "1 image cannot"
        faults.append(f"{what} be read, the first is '{data.images.ids[row]}' ({reason}): repair or remove them")
    if faults:
        raise DataError(f"'{data.images.name}' cannot be trained on: {'; '.join(faults)}")
    return Digests(world.sum(torch.from_numpy(digests.table)).numpy())


def _faults_of_classes(data: TrainingData) -> list[str]:
    """One clause for each split that has nothing to retrieve."""
    images, split = data.images, data.split
    faults = []
    alone = [label for label, count in Counter(images.labels[split.rows].tolist()).items() if count == 1]
    if alone:
        what = f"{len(alone)} classes have" if len(alone) > 1 else "1 class has"
        faults.append(
            f"{what} one image ('{images.class_names[alone[0]]}'); a class needs two, one to train on and one to "
            "retrieve: add images, or take these classes out"
        )
    parts = {"validation": split.validation, "test": None if split.test is None else split.test.query}
    for name, rows in parts.items():
        if rows is not None and np.bincount(images.labels[rows]).max(initial=0) < 2:
            faults.append(
                f"no class has two {name} images, so there is nothing to retrieve: add images, or test on another "
                "split (--test-split)"
            )
    return faults


def _small(width: int, height: int) -> int:
    """All of a JPEG is decoded whatever size comes out of it, and the smallest is the quickest."""
    return 8
