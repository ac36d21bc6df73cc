"""Which images train, which choose the best epoch, and which are read once at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data import ImageSet, Protocol, choose_protocol, published_split

VALIDATION_RULE = (
    "sha256: within each class of 4 or more training images, order them by SHA-256 of 'validation/' + id; "
    "the first {share:g}, but at least 2, are validation"
)
_VALIDATION_NAMES = ("val", "validation")


@dataclass(frozen=True)
class TrainingSplit:
    """Disjoint rows of one image set.

    Attributes:
        train: (N,) int64 ascending rows.
        validation: (V,) int64 ascending rows; the best epoch is chosen on them.
        test: The leave-one-out protocol over the test rows, read once, after training.
        validation_rule: Where `validation` comes from.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: Protocol
    validation_rule: str


def split_for_training(images: ImageSet, val_share: float) -> TrainingSplit:
    """Split an image set for training.

    Train and test are the data's own splits of these names, or else the published rule's. Validation is the data's own
    split "val" or "validation" where it has one, or else the part of train that VALIDATION_RULE gives. The prefix in
    that rule keeps it independent of the one that made the test split.

    Args:
        images: The image set.
        val_share: Share of each class's training images, in (0, 1).

    Raises:
        DataError: no such splits, a class with a single image, or no class with 4 training images.
    """
    alone = [images.class_names[label] for label, count in Counter(images.labels.tolist()).items() if count == 1]
    if alone:
        raise DataError(
            f"{len(alone)} classes of '{images.name}' have one image ('{alone[0]}'); a class needs two, one to train "
            "on and one to retrieve: add images, or take these classes out"
        )
    test = choose_protocol(images, "leave-one-out", split="test")
    train = choose_protocol(images, "leave-one-out", split="train").query
    native = next((name for name in _VALIDATION_NAMES if images.splits is not None and name in images.splits), None)
    if native is not None and test.split_rule == "published with the data":
        validation = choose_protocol(images, "leave-one-out", split=native).query
        return TrainingSplit(train, validation, test, "published with the data")
    held_out = _held_out(images, train, val_share)
    if not held_out.any():
        raise DataError(
            f"no class of '{images.name}' has 4 training images, so none can be held out to choose the best epoch: "
            "add images"
        )
    return TrainingSplit(train[~held_out], train[held_out], test, VALIDATION_RULE.format(share=val_share))


def _held_out(images: ImageSet, train: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    held_out = np.zeros(len(train), dtype=np.bool_)
    for label in np.unique(images.labels[train]):
        members = np.flatnonzero(images.labels[train] == label)
        if len(members) >= 4:
            keys = [f"validation/{images.ids[row]}" for row in train[members].tolist()]
            held_out[members] = published_split(keys, images.labels[train[members]], max(share, 2 / len(members)))
    return held_out
