"""Training images -> augmented batches, in loader processes, each image seeded by (seed, epoch, row) alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from timm_gam.core import RecipeError, UnreadableImageError, World
from timm_gam.data import ImageSet
from timm_gam.images import Preprocessing, default_workers, ignore_interrupts, load_image
from timm_gam.train.recipe import Recipe
from timm_gam.train.step.seeds import seed_augmentation, seed_for

__all__ = ["Batch", "EpochLoader", "augmentation", "epoch_order"]


@dataclass(frozen=True)
class Batch:
    """Images of one forward pass.

    Attributes:
        pixels: (B, 3, H, W) uint8, augmented, not yet normalised.
        labels: (B,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def pin_memory(self) -> Batch:
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory())


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


class EpochLoader:
    """Batches of any epoch from any update on, the share of one process of the run."""

    def __init__(
        self,
        images: ImageSet,
        train: NDArray[np.int64],
        preprocessing: Preprocessing,
        recipe: Recipe,
        world: World,
    ) -> None:
        self._labels = images.labels[train]
        self._recipe, self._world = recipe, world
        self._plan = _Plan()
        workers = default_workers(world.device) if recipe.workers is None else recipe.workers
        self._loader: DataLoader[Batch] = DataLoader(
            _AugmentedImages(images, train, preprocessing, recipe),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_init_worker if workers else None,
            persistent_workers=workers > 0,
            pin_memory=world.device.type == "cuda",
        )

    @property
    def updates_per_epoch(self) -> int:
        return len(self._labels) // (self._recipe.batch_size * self._recipe.accumulate)

    def batches(self, epoch: int, first_update: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` (from 0), `accumulate` of them per update, without those of the first updates.

        Raises:
            UnreadableImageError: an image cannot be decoded.
        """
        order = epoch_order(self._labels, self._recipe, epoch)[first_update:]
        mine = order.reshape(-1, self._recipe.batch_size)[:, self._world.rank :: self._world.size]
        self._plan.batches = [[(epoch, place) for place in batch] for batch in mine.tolist()]
        for batch in self._loader:
            if isinstance(batch, _Failure):
                raise UnreadableImageError(batch.image_id, batch.reason)
            yield batch


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


class _Plan(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, place); with the epoch in it, loader processes can outlive one."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass(frozen=True)
class _Failure:
    image_id: str
    reason: str

    def pin_memory(self) -> _Failure:
        return self


class _AugmentedImages(Dataset[Batch]):
    def __init__(
        self, images: ImageSet, train: NDArray[np.int64], preprocessing: Preprocessing, recipe: Recipe
    ) -> None:
        self.images, self.train, self.seed = images, train, recipe.seed
        self.shape = preprocessing.input_size
        self.transform = augmentation(preprocessing, recipe)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | _Failure:
        pixels = np.empty((len(keys), *self.shape), dtype=np.uint8)
        rows = self.train[[place for _, place in keys]]
        for i, ((epoch, _), row) in enumerate(zip(keys, rows.tolist(), strict=True)):
            try:
                image = self._decoded(row)
            except UnreadableImageError as error:
                return _Failure(error.image_id, error.reason)
            seed_augmentation(seed_for(self.seed, "augment", epoch, row))
            pixels[i] = self.transform(image)
        return Batch(torch.from_numpy(pixels), torch.from_numpy(self.images.labels[rows]))

    def _decoded(self, row: int) -> Image.Image:
        ((_, encoded),) = self.images.reader.read([row])
        return encoded if isinstance(encoded, Image.Image) else load_image(encoded, self.images.ids[row])[0]


def _as_it_is(batch: Any) -> Any:
    return batch


def _init_worker(worker: int) -> None:
    ignore_interrupts(worker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ctrl-C: the main process saves, then stops the loaders
