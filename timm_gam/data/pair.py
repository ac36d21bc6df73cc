"""Two image sets as one: queries from the first, gallery from the second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
        reader=_PairReader(query.reader, gallery.reader, len(query)),
        splits=(QUERY,) * len(query) + (GALLERY,) * len(gallery),
    )


@dataclass(frozen=True)
class _PairReader:
    query: ImageReader
    gallery: ImageReader
    offset: int  # index of the first gallery image

    @property
    def parallel(self) -> bool:
        return self.query.parallel and self.gallery.parallel

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        yield from self.query.read([i for i in indices if i < self.offset])
        for index, encoded in self.gallery.read([i - self.offset for i in indices if i >= self.offset]):
            yield index + self.offset, encoded
