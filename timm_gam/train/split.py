"""Which images train, which choose the best epoch, and which are read once at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data import ImageSet, Protocol, choose_protocol, published_name, published_split

VALIDATION_RULE = (
    "sha256: within each class of 4 or more training images, order them by SHA-256 of 'validation/' + id; "
    "the first {share:g}, but at least 2, are validation"
)
NO_TEST = "none"
"""As the test split: score none."""


@dataclass(frozen=True)
class TrainingSplit:
    """Disjoint rows of one image set.

    Attributes:
        train: (N,) int64 ascending rows.
        validation: (V,) int64 ascending rows; the best epoch is chosen on them.
        test: The leave-one-out protocol over the test rows, read once, after training; None where there are none.
        validation_rule: Where `validation` comes from.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: Protocol | None
    validation_rule: str

    @property
    def rows(self) -> NDArray[np.int64]:
        """(M,) int64 ascending rows of all three."""
        test = np.zeros(0, np.int64) if self.test is None else self.test.query
        return np.unique(np.concatenate([self.train, self.validation, test]))

    def needed_test(self) -> Protocol:
        """The test split, for those who cannot do without.

        Raises:
            DataError: there is none.
        """
        if self.test is None:
            raise DataError("there is no test split to score; name one of the data's splits with --test-split")
        return self.test


def splits_to_read(test_split: str | None) -> tuple[str, ...]:
    """The splits that training reads, where the data has them."""
    return ("train", "validation", *(() if test_split == NO_TEST else (test_split or "test",)))


def splits_to_test(images: ImageSet) -> tuple[str, ...]:
    """What an image set can be tested on: its splits but the one to train on; by the published rule "test"."""
    train = published_name("train", images.published_splits)
    return tuple(name for name in images.published_splits if name != train) or ("test",)


def split_for_training(images: ImageSet, val_share: float, test_split: str | None = None) -> TrainingSplit:
    """Split an image set for training.

    Train and test are the data's own splits of these names, or else, where the data has no splits, the published
    rule's. Validation is the data's own split of that name ("val" and "dev" are the same here), unless that is the test
    split, or else the part of train that VALIDATION_RULE gives. The prefix in that rule keeps it independent of the one
    that made the test split.

    Args:
        images: The image set.
        val_share: Share of each class's training images, in (0, 1).
        test_split: Another split to test on, or "none". Default: "test"; none where the data has other splits alone.

    Raises:
        DataError: no such splits, or no class with 4 training images.
    """
    native = images.published_splits
    whole = native in ((), ("train",))  # "train" is what `datasets` calls all there is
    if test_split is None and not whole and published_name("test", native) is None:
        test_split = NO_TEST
    if test_split and test_split != NO_TEST and published_name(test_split, legal := splits_to_test(images)) is None:
        raise DataError(
            f"--test-split {test_split} came, and '{images.name}' has no such split to test on; legal: "
            f"{', '.join((*legal, NO_TEST))}"
        )
    test = None if test_split == NO_TEST else choose_protocol(images, "leave-one-out", split=test_split or "test")
    train = choose_protocol(images, "leave-one-out", split="all" if whole and test is None else "train").query
    validation = None if whole else published_name("validation", native)
    if validation is not None and not (test_split and published_name(test_split, native) == validation):
        rows = choose_protocol(images, "leave-one-out", split=validation).query
        return TrainingSplit(train, rows, test, "published with the data")
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
