"""Protocols: which images are queries and which are their gallery. Every output names the one it used.

    leave-one-out    every image of a split is a query against all other images of that split
    query-gallery    the images of one split are queries against the images of another
    class-disjoint   leave-one-out among held-out classes only (open-set: no class was seen in training)

A query that is itself in the gallery is left out of its own ranking by identity, never by rank, so duplicates of
it under other ids are still found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.image_set import ImageSet, published_name
from timm_gam.data.splits import CLASS_RULE, IMAGE_RULE, published_class_split, published_split

ProtocolName = Literal["leave-one-out", "query-gallery", "class-disjoint"]
PROTOCOLS: tuple[ProtocolName, ...] = ("leave-one-out", "query-gallery", "class-disjoint")

ALL = "all"
"""The split that holds every image."""


@dataclass(frozen=True)
class Protocol:
    """Queries and gallery as rows of one image set.

    Attributes:
        name: One of PROTOCOLS.
        description: One line for every output: what was ranked against what.
        split_rule: Where the splits come from: "none", "published with the data", or the SHA-256 rule's text.
        query: (Q,) int64 rows of the image set, ascending.
        gallery: (N,) int64 rows of the image set, ascending.
        splits: What `choose_protocol` was asked for: the split, or those of the queries and of the gallery.
    """

    name: ProtocolName
    description: str
    split_rule: str
    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    splits: tuple[str, ...] = ()

    @property
    def images(self) -> NDArray[np.int64]:
        """Rows of the image set that need an embedding, ascending."""
        return np.union1d(self.query, self.gallery)

    def restricted_to(self, rows: NDArray[np.int64]) -> Protocol:
        """The same protocol without the images that are not in `rows` (unreadable ones that were skipped)."""
        query, gallery = np.intersect1d(self.query, rows), np.intersect1d(self.gallery, rows)
        _refuse_empty(query, gallery, self.name)
        return Protocol(self.name, self.description, self.split_rule, query, gallery, self.splits)


def choose_protocol(
    images: ImageSet,
    name: ProtocolName = "leave-one-out",
    *,
    split: str = ALL,
    query_split: str = "test",
    gallery_split: str = "train",
) -> Protocol:
    """Choose queries and gallery from an image set.

    A split is one the data was published with, or else "train" or "test" by the SHA-256 rule of `timm_gam.data.splits`,
    or "all". The rule is applied only where the data has no splits of its own, or a single one called "train".
    "dev", "val" and "validation", and whatever else `datasets` takes for one split, mean the same here.

    Args:
        images: The image set.
        name: One of PROTOCOLS.
        split: The split that leave-one-out and class-disjoint score.
        query_split: The queries of query-gallery.
        gallery_split: The gallery of query-gallery.

    Raises:
        DataError: an unknown split (the legal ones are listed), or too few images to rank.

    >>> from timm_gam.data import draw_synthetic
    >>> protocol = choose_protocol(draw_synthetic(5), "query-gallery")
    >>> len(protocol.query), len(protocol.gallery)
    (30, 120)
    """
    if name == "query-gallery":
        query, query_rule = _split_rows(images, query_split)
        gallery, rule = _split_rows(images, gallery_split)
        rule = rule if query_rule == "none" else query_rule
        if np.array_equal(query, gallery):
            raise DataError(f"query and gallery are the same split '{query_split}'; use --protocol leave-one-out")
        text = f"each image of split '{query_split}' against all of split '{gallery_split}'"
    elif name == "class-disjoint":
        rows, rule = _split_rows(images, split)
        held_out = published_class_split(images.class_names)
        query = gallery = rows[held_out[images.labels[rows]]]
        rule = CLASS_RULE if rule == "none" else f"{CLASS_RULE}; {rule}"
        text = f"each image of {int(held_out.sum())} held-out classes, split '{split}', against all others of them"
    else:
        query, rule = _split_rows(images, split)
        gallery = query
        text = f"each image of split '{split}' against all others of it"
    _refuse_empty(query, gallery, name)
    splits = (query_split, gallery_split) if name == "query-gallery" else (split,)
    return Protocol(name, f"{name}: {text}", rule, query, gallery, splits)


def training_rows(images: ImageSet, protocol: Protocol) -> tuple[NDArray[np.int64], str]:
    """Rows that something may be fitted on before a protocol is scored, and in words what they are.

    Of class-disjoint: the images of the classes that are not held out. Else: the split "train" without the queries; a
    gallery may be part of it, as it is in the protocol query-gallery.

    Raises:
        DataError: there are none.
    """
    if protocol.name == "class-disjoint":
        rows = np.flatnonzero(~published_class_split(images.class_names)[images.labels])
        text = "classes that are not held out"
        if protocol.splits != (ALL,):
            rows, text = np.intersect1d(rows, _split_rows(images, "train")[0]), f"{text}, split 'train'"
    else:
        rows, text = _split_rows(images, "train")[0], "split 'train'"
    rows = np.setdiff1d(rows, protocol.query)
    if not len(rows):
        raise DataError(
            f"every training image of '{images.name}' is a query of {protocol.name}, so nothing can be fitted; score "
            "--split test"
        )
    return rows, f"{len(rows)} images of {text}, none of them a query"


def _split_rows(images: ImageSet, split: str) -> tuple[NDArray[np.int64], str]:
    native = images.published_splits
    if split == ALL:
        return np.arange(len(images), dtype=np.int64), "none"
    if native in ((), ("train",)) and split in ("train", "test"):  # "train" is what `datasets` calls all there is
        is_test = published_split(images.ids, images.labels)
        return np.flatnonzero(is_test if split == "test" else ~is_test), IMAGE_RULE
    name = published_name(split, native)
    if name is not None and images.splits is not None:
        return np.flatnonzero(np.array(images.splits) == name), "published with the data"
    legal = sorted(native) if native not in ((), ("train",)) else ["test", "train"]
    raise DataError(f"'{images.name}' has no split '{split}'; legal: {', '.join([ALL, *legal])}")


def _refuse_empty(query: NDArray[np.int64], gallery: NDArray[np.int64], name: str) -> None:
    if len(query) == 0 or len(gallery) == 0 or len(np.union1d(query, gallery)) < 2:
        raise DataError(
            f"{name} has {len(query)} queries and {len(gallery)} gallery images; at least one query and one other "
            "image are needed: choose another split or protocol"
        )
