"""What a run trains on: read, split, and known by its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import RunFolderError
from timm_gam.data import ImageSet, class_warnings, read_images
from timm_gam.images import Digests, data_fingerprint
from timm_gam.train.recipe import Recipe
from timm_gam.train.split import TrainingSplit, split_for_training, splits_to_read, splits_to_test


@dataclass(frozen=True)
class TrainingData:
    """Images and what they are for.

    Attributes:
        images: The image set; the classes that train come first, those that are only validated or tested on after them.
        split: Its rows that train, validate and test.
    """

    images: ImageSet
    split: TrainingSplit

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classifier, in its order: the classes that train."""
        return self.images.class_names[: len(np.unique(self.images.labels[self.split.train]))]

    @property
    def classes(self) -> int:
        """Of the classifier."""
        return len(self.class_names)

    @property
    def warnings(self) -> list[str]:
        """What the reader must know, one line each."""
        split = self.split
        lines = [*self.images.notes, *class_warnings(self.images.labels[split.train], self.images.class_names)]
        if split.test is None:
            others = ", ".join(splits_to_test(self.images))
            lines.append(f"no test split, so there is no score at the end; --test-split takes one ({others})")
        return lines

    def __str__(self) -> str:
        split = self.split
        sizes = [f"{len(split.train)} train", f"{len(split.validation)} validation"]
        sizes += [] if split.test is None else [f"{len(split.test.query)} test"]
        return f"{self.images.name}: {', '.join(sizes)}"

    def record(self, found: Fingerprints) -> dict[str, Any]:
        """data.json, without the start."""
        images, split = self.images, self.split
        return {
            "name": images.name,
            "fingerprint": found.all,
            "trained_on": found.trained_on,
            "class_names": list(self.class_names),
            "split_rule": split.test.split_rule if split.test is not None else None,
            "validation_rule": split.validation_rule,
            "images": {
                "train": len(split.train),
                "validation": len(split.validation),
                "test": len(split.test.query) if split.test is not None else 0,
            },
            "left_out": dict(images.left_out),
            "warnings": self.warnings,
        }


def read_training_data(recipe: Recipe, images: ImageSet | None = None) -> TrainingData:
    """Read and split the images that a recipe names, or these instead.

    Raises:
        TimmGamError: they cannot be had or split.
    """
    if images is None:
        images = read_images(
            recipe.data_dir,
            recipe.dataset,
            image_column=recipe.image_column,
            label_column=recipe.label_column,
            id_column=recipe.id_column,
            config_name=recipe.config_name,
            image_root=recipe.image_root,
            splits=splits_to_read(recipe.test_split),
        )
    split = split_for_training(images, recipe.val_share, recipe.test_split)
    return TrainingData(_trained_first(images, images.labels[split.train]), split)


def _trained_first(images: ImageSet, trained: NDArray[np.int64]) -> ImageSet:
    """The image set with those of its classes in front, in their order, that are among the labels `trained`."""
    trains = np.isin(np.arange(len(images.class_names)), trained)
    order = np.concatenate([np.flatnonzero(trains), np.flatnonzero(~trains)])
    if np.array_equal(order, np.arange(len(order))):
        return images
    names = tuple(images.class_names[old] for old in order.tolist())
    return replace(images, labels=np.argsort(order)[images.labels].astype(np.int64), class_names=names)


@dataclass(frozen=True)
class Fingerprints:
    """Which images a run had.

    Attributes:
        all: Fingerprint of all that is trained, validated and tested on.
        trained_on: Of the first two alone, which decide the weights.
        images: Sorted uint64 numbers of the images that are trained on, and of those that are validated on.
    """

    all: str
    trained_on: str
    images: tuple[NDArray[np.uint64], NDArray[np.uint64]]

    @classmethod
    def of(cls, data: TrainingData, rows: NDArray[np.int64], digests: Digests) -> Fingerprints:
        """Those of `data`, from the digests of its rows."""
        decide = np.isin(rows, np.union1d(data.split.train, data.split.validation))
        numbers, known = digests.shortened(), digests.known
        train, validation = (
            np.unique(numbers[known & np.isin(rows, part)]) for part in (data.split.train, data.split.validation)
        )
        return cls(
            data_fingerprint(data.images, rows, digests),
            data_fingerprint(data.images, rows[decide], digests.take(decide)),
            (train, validation),
        )

    def refuse_others(self, known: dict[str, Any], data: TrainingData, folder: object) -> None:
        """Make sure that the run in a folder, by its data.json `known`, can go on with what was read now.

        Raises:
            RunFolderError: other images, or other classes, than it was trained on.
        """
        before, now = known.get("trained_on"), self.trained_on
        if before is None:  # of an earlier version
            before, now = known.get("fingerprint"), self.all
        if before != now:
            raise RunFolderError(
                f"'{folder}' was trained on images with fingerprint {str(before)[:12]}, and those of "
                f"'{data.images.name}' now have {now[:12]}: give it the same images, or start anew in another folder"
            )
        if known.get("class_names") != list(data.class_names):
            raise RunFolderError(
                f"'{folder}' was trained with other classes than '{data.images.name}' has now: give it the same, or "
                "start anew in another folder"
            )
