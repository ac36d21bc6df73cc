"""Image sets of others: some classes of one, or two as queries and gallery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.image_set import EncodedImage, ImageReader, ImageSet

QUERY = "query"
GALLERY = "gallery"


def pair_query_gallery(query: ImageSet, gallery: ImageSet) -> ImageSet:
    """Join two image sets into one with the splits "query" and "gallery"; classes are matched by name.

    Ids get their split as a prefix, since equal ids in two sets need not be the same image.

    Raises:
        DataError: the sets share no class, so that no query could have a relevant image.

    >>> from timm_gam.data import draw_synthetic
    >>> pair = pair_query_gallery(draw_synthetic(1), draw_synthetic(2))
    >>> len(pair), pair.ids[0], sorted(set(pair.splits))
    (90, 'query/open_sea/0000', ['gallery', 'query'])
    """
    names = sorted(set(query.class_names) | set(gallery.class_names))
    if not set(query.class_names) & set(gallery.class_names):
        raise DataError(
            f"queries '{query.name}' and gallery '{gallery.name}' share no class name "
            f"('{query.class_names[0]}', ... and '{gallery.class_names[0]}', ...); name the classes alike in both"
        )
    index = {name: i for i, name in enumerate(names)}
    labels = [index[part.class_names[label]] for part in (query, gallery) for label in part.labels.tolist()]
    return ImageSet(
        name=f"{query.name} against {gallery.name}",
        ids=(*(f"{QUERY}/{i}" for i in query.ids), *(f"{GALLERY}/{i}" for i in gallery.ids)),
        labels=np.array(labels, dtype=np.int64),
        class_names=tuple(names),
        reader=_PairReader(query.reader, gallery.reader, len(query), query.reader.parallel and gallery.reader.parallel),
        splits=(QUERY,) * len(query) + (GALLERY,) * len(gallery),
    )


@dataclass(frozen=True)
class _PairReader:
    query: ImageReader
    gallery: ImageReader
    offset: int  # index of the first gallery image
    parallel: bool

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        yield from self.query.read([i for i in indices if i < self.offset])
        for index, encoded in self.gallery.read([i - self.offset for i in indices if i >= self.offset]):
            yield index + self.offset, encoded


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
        reader=_PartReader(images.reader, rows, images.reader.parallel),
        splits=None if images.splits is None else tuple(images.splits[row] for row in rows.tolist()),
    )


@dataclass(frozen=True)
class _PartReader:
    inner: ImageReader
    rows: NDArray[np.int64]  # of the whole set, ascending
    parallel: bool

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        read = self.inner.read(self.rows[list(indices)].tolist())
        for index, (_, encoded) in zip(indices, read, strict=True):
            yield index, encoded
