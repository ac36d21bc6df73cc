"""Photographs that are there more than once: the same bytes, or nearly the same picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from timm_gam.core import ProgressBar, no_progress
from timm_gam.images import NEAR, SIGNATURE_BYTES, alike_groups
from timm_gam.search.photos.photo_index import PhotoIndex


@dataclass(frozen=True)
class Duplicates:
    """Groups of two or more photographs each.

    Attributes:
        photographs: In the index.
        exact: Paths with the same bytes.
        near: Paths of nearly the same picture, with the most pixels first; a chain of near ones is one group.
        distinct: How many photographs remain if one of each exact group does.
        pictures: How many remain if one of each near group does too.
    """

    photographs: int
    exact: list[list[str]]
    near: list[list[str]]
    distinct: int
    pictures: int

    @property
    def exact_rate(self) -> float:
        """The share of the photographs that are copies of another."""
        return (self.photographs - self.distinct) / max(1, self.photographs)

    @property
    def near_rate(self) -> float:
        """The share that are no copies but nearly another."""
        return (self.distinct - self.pictures) / max(1, self.photographs)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "photographs": self.photographs,
            "exact": {"rate": round(self.exact_rate, 6), "groups": self.exact},
            "near": {"rate": round(self.near_rate, 6), "groups": self.near},
        }


def find_duplicates(index: PhotoIndex, near: float | None = None, progress: ProgressBar = no_progress) -> Duplicates:
    """Group the photographs of an index.

    Near ones are alike by `timm_gam.images.likeness`, as those of an evaluation and of a data set are. What it compares
    is made while photographs are embedded, and kept beside the embeddings. A picture of one flat tone has no near
    duplicates, as it is as much like any other such as like its copy.

    Args:
        index: Brought up to date before.
        near: How much alike near duplicates are at least, in (0, 1]; default `timm_gam.images.NEAR`.
        progress: Makes progress bars.

    Raises:
        DataError: nothing has been indexed yet.
    """
    places: dict[bytes, list[str]] = {}
    pixels: dict[bytes, int] = {}
    for photos in index.catalogue.contents():
        places[photos[0].digest] = [photo.path for photo in photos]
        pixels[photos[0].digest] = photos[0].width * photos[0].height
    digests, embeddings = index.catalogue.digests(), index.embeddings(index.collection())
    digests = digests.take(~embeddings.missing(digests))
    table = embeddings.signatures(digests) if len(digests) else np.zeros((0, SIGNATURE_BYTES), dtype=np.int8)
    informative = np.flatnonzero(table[:, 1:].any(axis=1))
    with progress("comparing", "img", len(informative)) as on_progress:
        alike = alike_groups(table[informative], NEAR if near is None else near, on_progress)
    groups = [[digests[row] for row in informative[group].tolist()] for group in alike]
    for group in groups:
        group.sort(key=lambda digest: (-pixels[digest], places[digest][0]))
    found = sorted([path for digest in group for path in places[digest]] for group in groups)
    exact = sorted(paths for paths in places.values() if len(paths) > 1)
    pictures = len(places) - sum(len(group) - 1 for group in groups)
    return Duplicates(sum(map(len, places.values())), exact, found, len(places), pictures)
