"""Training images -> augmented batches, in loader processes, each image seeded by (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from timm_gam.core import RecipeError, World
from timm_gam.data import ImageSet
from timm_gam.images import Preprocessing, default_workers, in_shared_memory, load_image, load_items
from timm_gam.train.recipe import Recipe
from timm_gam.train.step.seeds import seed_augmentation, seed_for


class Batch(NamedTuple):
    """Images of one forward pass; torch pins the memory of a tuple's tensors.

    Attributes:
        pixels: (B, 3, H, W) uint8, augmented, not yet normalised.
        labels: (B,) int64.
    """

    pixels: Tensor
    labels: Tensor


def epoch_order(labels: NDArray[np.int64], recipe: Recipe, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch visits its N training images: (updates, accumulate, batch) places in [0, N).

    Cross-entropy visits a permutation and leaves out the rest of a division by the images of an update; another epoch
    leaves out others. Metric-learning losses visit `per_class` images of each of several classes per batch
    (pytorch_metric_learning's MPerClassSampler), as often as that many images make batches.
    """
    per_update = recipe.batch_size * recipe.accumulate
    updates = len(labels) // per_update
    seed = seed_for(recipe.seed, "order", epoch)
    if recipe.loss == "cross-entropy":
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))[: updates * per_update]
    else:
        from pytorch_metric_learning.samplers import MPerClassSampler

        seed_augmentation(seed)  # the sampler draws from numpy's global generator
        order = np.array(list(MPerClassSampler(labels, recipe.per_class, recipe.batch_size, updates * per_update)))
    return order.astype(np.int64).reshape(updates, recipe.accumulate, recipe.batch_size)


@contextmanager
def training_batches(
    images: ImageSet,
    train: NDArray[np.int64],
    preprocessing: Preprocessing,
    recipe: Recipe,
    world: World,
    *,
    epoch: int = 0,
    update: int = 0,
) -> Iterator[Iterator[Batch]]:
    """Within: this process's share of all batches from an update of an epoch on, `recipe.accumulate` per update.

    Raises:
        UnreadableImageError: within, an image cannot be decoded.
        MachineError: within, a loader process was killed.
    """
    workers = default_workers(world.device) if recipe.workers is None else recipe.workers
    with load_items(
        _AugmentedImages(images, train, preprocessing, recipe),
        _keys(images.labels[train], recipe, world, epoch, update),
        workers=workers,
        pin_memory=world.device.type == "cuda",
        advice="lower --workers, then --resume",
    ) as batches:
        yield batches


def _keys(
    labels: NDArray[np.int64], recipe: Recipe, world: World, epoch: int, update: int
) -> Iterator[list[tuple[int, int]]]:
    """(epoch, place) of the images of each batch."""
    for number in range(epoch, recipe.epochs):
        order = epoch_order(labels, recipe, number)[update if number == epoch else 0 :]
        for batch in order.reshape(-1, recipe.batch_size)[:, world.rank :: world.size].tolist():
            yield [(number, place) for place in batch]


def augmentation(preprocessing: Preprocessing, recipe: Recipe) -> Callable[[Image.Image], Any]:
    """timm's training transform: an RGB image -> (3, H, W) uint8.

    Raises:
        RecipeError: timm does not know the auto augment policy.
    """
    try:
        transform: Callable[[Image.Image], Any] = create_transform(
            preprocessing.input_size,
            is_training=True,
            use_prefetcher=True,  # uint8 out: a quarter of the bytes between processes, normalised on the device
            scale=recipe.scale,
            hflip=recipe.hflip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=recipe.aa,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
        )
    except (AssertionError, ValueError, KeyError) as error:  # timm asserts what a policy is
        legal = "timm's policies, such as rand-m9-mstd0.5, augmix-m3-w3, original, 3a"
        raise RecipeError(f"aa is '{recipe.aa}'; legal: {legal}") from error
    return transform


class _AugmentedImages(Dataset[Batch]):
    def __init__(
        self, images: ImageSet, train: NDArray[np.int64], preprocessing: Preprocessing, recipe: Recipe
    ) -> None:
        self.images, self.train, self.seed, self.limits = images, train, recipe.seed, recipe.limits
        self.shape = preprocessing.input_size
        self.transform = augmentation(preprocessing, recipe)

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch:
        pixels = np.empty((len(keys), *self.shape), dtype=np.uint8)
        rows = self.train[[place for _, place in keys]]
        for i, ((epoch, _), row) in enumerate(zip(keys, rows.tolist(), strict=True)):
            ((_, image),) = self.images.reader.read([row])
            if not isinstance(image, Image.Image):
                image, _ = load_image(image, self.images.ids[row], limits=self.limits)
            seed_augmentation(seed_for(self.seed, "augment", epoch, row))
            pixels[i] = self.transform(image)
        return Batch(in_shared_memory(torch.from_numpy(pixels)), torch.from_numpy(self.images.labels[rows]))
