"""Splits and batches: what trains, validates and tests, in which order, and that loading decides nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval import RetrievalEvaluator
from tests.shapes import draw_shapes
from tests.timm_gam.train.helpers import metrics, small_recipe, train_quietly, write_shapes
from timm_gam.core import DataError, MachineError, World
from timm_gam.data import ImageSet, published_split, read_folder
from timm_gam.images import cache_decoded, resolve_preprocessing
from timm_gam.train import (
    Recipe,
    RunFolder,
    epoch_order,
    seed_for,
    split_for_training,
    start_model,
    train,
    training_batches,
)


def batches(images: ImageSet, recipe: Recipe, world: World, epoch: int, first: int = 0) -> list[torch.Tensor]:
    preprocessing = resolve_preprocessing(start_model(recipe, 4)[0], img_size=recipe.img_size)
    train = split_for_training(images, recipe.val_share).train
    decoded = cache_decoded(images, train, recipe.cache_images * 2**20)
    recipe = replace(recipe, epochs=epoch + 1)
    with training_batches(decoded, train, preprocessing, recipe, world, epoch=epoch, update=first) as stream:
        return [batch.pixels for batch in stream]


ALONE = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("changes", [{"workers": 2}, {"cache_images": 0}, {"cache_images": 0, "workers": 1}])
def test_neither_loader_processes_nor_the_cache_change_a_pixel(changes: dict, photos: Path) -> None:
    recipe = {"aa": "rand-m9-mstd0.5", "color_jitter": 0.3}
    images = read_folder(photos)
    expected = batches(images, small_recipe(**recipe), ALONE, epoch=3)
    assert len(expected) == 3
    for one, other in zip(expected, batches(images, small_recipe(**recipe, **changes), ALONE, epoch=3), strict=True):
        assert torch.equal(one, other)


def test_processes_share_each_batch_and_a_resumed_epoch_is_the_rest_of_it(photos: Path) -> None:
    images, recipe = read_folder(photos), small_recipe()
    whole = batches(images, recipe, ALONE, epoch=1)
    shares = [batches(images, recipe, World(rank, 2, torch.device("cpu")), epoch=1) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch[0::2], first)
        assert torch.equal(batch[1::2], second)
    for one, other in zip(whole[2:], batches(images, recipe, ALONE, epoch=1, first=2), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole[0], batches(images, recipe, ALONE, epoch=2)[0])


def test_a_cache_that_is_too_small_holds_what_fits(photos: Path) -> None:
    images = read_folder(photos)
    rows = np.arange(len(images))
    for count in (0, 3, 40):
        cached = cache_decoded(images, rows, count * 48 * 48 * 3)
        kinds = [type(encoded).__name__ for _, encoded in cached.reader.read(rows.tolist())]
        assert kinds == ["Image"] * count + ["PosixPath"] * (40 - count)


def test_an_epoch_visits_each_image_at_most_once_and_leaves_out_others_each_time() -> None:
    labels = np.zeros(50, dtype=np.int64)
    recipe = Recipe(batch_size=8, accumulate=2)
    orders = [epoch_order(labels, recipe, epoch) for epoch in range(3)]
    for order in orders:
        assert order.shape == (3, 2, 8)
        assert len(np.unique(order)) == 48
    assert len({frozenset(order.flatten().tolist()) for order in orders}) == 3
    assert np.array_equal(orders[1], epoch_order(labels, recipe, 1))
    assert not np.array_equal(orders[1], epoch_order(labels, Recipe(batch_size=8, accumulate=2, seed=1), 1))


def test_metric_learning_batches_hold_as_many_of_each_class() -> None:
    pytest.importorskip("pytorch_metric_learning")
    labels = np.repeat(np.arange(10), [5, 50, 7, 9, 30, 12, 20, 8, 6, 40])
    recipe = Recipe(batch_size=12, per_class=3, loss="arcface")
    order = epoch_order(labels, recipe, 0)
    for batch in labels[order.reshape(-1, 12)]:
        assert np.unique(batch, return_counts=True)[1].tolist() == [3, 3, 3, 3]
    assert np.array_equal(order, epoch_order(labels, recipe, 0))


def test_batches_that_cannot_hold_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_metric_learning")
    for changes, message in (({"batch_size": 9}, "multiple of per_class"), ({"batch_size": 20}, "4 classes")):
        with pytest.raises(DataError, match=message):
            recipe = small_recipe(data_dir=str(photos), loss="arcface", per_class=4, **changes)
            train_quietly(recipe, tmp_path / "run")


def test_splits_are_disjoint_whole_and_published() -> None:
    images = draw_shapes(20)
    split = split_for_training(images, 0.1)
    test = published_split(images.ids, images.labels)
    assert np.array_equal(split.test.query, np.flatnonzero(test))
    parts = [split.train, split.validation, split.test.query]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(images)))
    counts = np.bincount(images.labels[split.validation])
    assert set(counts.tolist()) == {2}  # 10 % of 16 would be 1, which has nothing to retrieve
    assert set(np.bincount(images.labels[split_for_training(images, 0.5).validation]).tolist()) == {8}
    # The rule written out again: SHA-256 of "validation/" + id, within each class, among training images.
    import hashlib

    for label in range(3):
        train = [i for i in range(len(images)) if images.labels[i] == label and not test[i]]
        train.sort(key=lambda i: hashlib.sha256(f"validation/{images.ids[i]}".encode()).digest())
        mine = [row for row in split.validation.tolist() if images.labels[row] == label]
        assert sorted(train[:2]) == mine


def test_splits_of_the_data_are_kept(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("val", 3), ("test", 4)):
        write_shapes(tmp_path / name, classes=2, images=count)
    images = read_folder(tmp_path)
    split = split_for_training(images, 0.1)
    assert (len(split.train), len(split.validation), len(split.test.query)) == (12, 6, 8)
    assert split.validation_rule == "published with the data"


def test_seeds_differ_by_what_they_are_for() -> None:
    seeds = {seed_for(s, what, a, b) for s in (0, 1) for what in ("x", "y") for a in range(9) for b in range(9)}
    assert len(seeds) == 2 * 2 * 81
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, "augment", 1, 23) != seed_for(0, "augment", 12, 3)


def test_a_loader_process_that_is_killed_is_one_line_and_costs_nothing(photos: Path, tmp_path: Path) -> None:
    def log(line: str) -> None:
        if line.startswith("epoch 1/"):
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

    recipe = small_recipe(data_dir=str(photos), workers=1, epochs=1000)
    with pytest.raises(MachineError, match="a loader process died .*; lower --workers, then --resume"):
        train(recipe, tmp_path / "run", RetrievalEvaluator(), log=log)
    assert metrics(RunFolder(tmp_path / "run"))[0]["epoch"] == "1"
