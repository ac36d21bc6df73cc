"""Some classes of an image set, as an image set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.image_set import EncodedImage, ImageReader, ImageSet


def take_classes(images: ImageSet, classes: NDArray[np.bool_], name: str) -> ImageSet:
    """The images of some classes, with their ids and splits; the classes are numbered anew, in the same order.

    Args:
        images: An image set of C classes.
        classes: (C,) bool, which to take.
        name: How outputs call the part.

    Raises:
        DataError: no image is left.

    >>> from timm_gam.data import draw_synthetic, published_class_split
    >>> images = draw_synthetic(images_per_class=4)
    >>> half = take_classes(images, published_class_split(images.class_names), "held-out half")
    >>> len(half), len(half.class_names)
    (60, 15)
    """
    rows = np.flatnonzero(classes[images.labels])
    if not len(rows):
        raise DataError(f"none of the {len(images.class_names)} classes of '{images.name}' is left; take at least one")
    number = np.cumsum(classes) - 1
    return ImageSet(
        name=name,
        ids=tuple(images.ids[row] for row in rows.tolist()),
        labels=number[images.labels[rows]].astype(np.int64),
        class_names=tuple(images.class_names[label] for label in np.flatnonzero(classes).tolist()),
        reader=_PartReader(images.reader, rows),
        splits=None if images.splits is None else tuple(images.splits[row] for row in rows.tolist()),
    )


@dataclass(frozen=True)
class _PartReader:
    inner: ImageReader
    rows: NDArray[np.int64]  # of the whole set, ascending

    @property
    def parallel(self) -> bool:
        return self.inner.parallel

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        read = self.inner.read(self.rows[list(indices)].tolist())
        for index, (_, encoded) in zip(indices, read, strict=True):
            yield index, encoded
