"""Photographs that are there more than once: the same bytes, or nearly the same picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import ProgressBar, UnreadableImageError, counted, no_progress
from timm_gam.images import BITS, DecodeLimits, difference_hash, load_image, near_pairs
from timm_gam.search.photos.photo_index import PhotoIndex

_SIDE = 128  # a JPEG is reduced to no less while it is decoded; the hash looks at 17 x 16 pixels
_CHUNK = 512
_TELLS = 8  # a picture with fewer bits set, or unset, is flat: its hash tells nothing


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


def find_duplicates(
    index: PhotoIndex,
    most_bits: int = 20,
    progress: ProgressBar = no_progress,
    limits: DecodeLimits = DecodeLimits(),
) -> Duplicates:
    """Group the photographs of an index.

    Near ones differ in few bits of the difference hash (`timm_gam.images.difference_hash`), which scaling,
    recompression and brightness hardly change. Hashes are made once and kept. A flat picture has no near duplicates, as
    its hash says nothing.

    Args:
        index: Brought up to date before.
        most_bits: Bits in which near duplicates differ at most, in [0, 256].
        progress: Makes progress bars.
        limits: What a photograph may take to decode.
    """
    places = index.catalogue.places()
    hashes = _hashes(index, places, progress, limits)
    table = np.frombuffer(b"".join(hashes.values()), dtype=np.uint8).reshape(-1, BITS // 8)
    digests, pixels = list(hashes), index.catalogue.pixels()
    groups = [[digests[row] for row in group] for group in near_groups(table, most_bits)]
    for group in groups:
        group.sort(key=lambda digest: (-pixels[digest], places[digest][0]))
    near = sorted([path for digest in group for path in places[digest]] for group in groups)
    exact = sorted(paths for paths in places.values() if len(paths) > 1)
    pictures = len(places) - sum(len(group) - 1 for group in groups)
    return Duplicates(sum(map(len, places.values())), exact, near, len(places), pictures)


def near_groups(table: NDArray[np.uint8], most_bits: int) -> list[list[int]]:
    """Groups of two or more rows that differ from another of the group in at most so many bits.

    Args:
        table: (N, 32) uint8, difference hashes packed.
        most_bits: In [0, 256].
    """
    packed, which = np.unique(np.ascontiguousarray(table).view(f"V{BITS // 8}").ravel(), return_inverse=True)
    hashes = np.unpackbits(packed.view(np.uint8).reshape(-1, BITS // 8), axis=1).astype(np.bool_)
    telling = np.flatnonzero(np.abs(hashes.sum(axis=1) - BITS / 2) <= BITS / 2 - _TELLS)
    parent = np.arange(len(hashes))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for first, second, _ in near_pairs(hashes[telling], most_bits):
        one, other = root(int(telling[first])), root(int(telling[second]))
        parent[max(one, other)] = min(one, other)
    tells = np.isin(which, telling)
    roots = np.array([root(row) for row in range(len(hashes))], dtype=np.int64)[which]
    order = np.flatnonzero(tells)[np.argsort(roots[tells], kind="stable")]
    cuts = np.flatnonzero(np.diff(roots[order])) + 1
    return [group.tolist() for group in np.split(order, cuts) if len(group) > 1]


def _hashes(
    index: PhotoIndex, places: dict[bytes, list[str]], progress: ProgressBar, limits: DecodeLimits
) -> dict[bytes, bytes]:
    """Digest -> packed hash; those that were not kept are made, and kept some at a time."""
    hashes = index.catalogue.hashes()
    lacking = iter([(digest, paths[0]) for digest, paths in places.items() if digest not in hashes])

    def make(one: tuple[bytes, str]) -> tuple[bytes, bytes] | None:
        try:
            picture, digest = load_image(index.root / one[1], one[1], _shrink, limits)
        except UnreadableImageError:
            return None
        return (digest, np.packbits(difference_hash(picture)).tobytes()) if digest == one[0] else None

    with (
        progress("comparing", "img", len(places) - len(hashes)) as on_progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for chunk in _chunks(lacking):
            made = dict(found for found in counted(pool.map(make, chunk), on_progress) if found is not None)
            index.catalogue.keep_hashes(made)
            hashes.update(made)
    return hashes


def _chunks(items: Iterator[tuple[bytes, str]]) -> Iterator[list[tuple[bytes, str]]]:
    while chunk := list(islice(items, _CHUNK)):
        yield chunk


def _shrink(width: int, height: int) -> int:
    return next((factor for factor in (8, 4, 2) if min(width, height) >= factor * _SIDE), 1)
