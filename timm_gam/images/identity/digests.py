"""SHA-256 digests of images, 32 bytes each (as Python objects they take four times that), and of a set of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import ALONE, UnreadableImageError, World
from timm_gam.data import ImageSet
from timm_gam.images.decoding import content_digest

DIGEST_BYTES = 32


class Digests(Sequence[bytes]):
    """N SHA-256 digests of encoded images, read and written as bytes; b"" where there is none.

    Attributes:
        table: (N, 32) uint8; a row of zeros where there is none.
    """

    def __init__(self, table: NDArray[np.uint8]) -> None:
        self.table = np.ascontiguousarray(table)

    @classmethod
    def none(cls, count: int) -> Digests:
        """Room for so many, none of which is known yet."""
        return cls(np.zeros((count, DIGEST_BYTES), dtype=np.uint8))

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> Digests:
        """Those given, each of 32 bytes or empty."""
        joined = b"".join(digest or bytes(DIGEST_BYTES) for digest in digests)
        return cls(np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES))

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether there is one."""
        known: NDArray[np.bool_] = self.table.max(axis=1) > 0
        return known

    @property
    def values(self) -> NDArray[np.void]:
        """(N,) each as one value that can be compared and sorted."""
        values: NDArray[np.void] = self.table.view(f"V{DIGEST_BYTES}").ravel()
        return values

    def distinct(self) -> Digests:
        """Each once, in order of their bytes."""
        return Digests(np.unique(self.values).view(np.uint8).reshape(-1, DIGEST_BYTES))

    def groups(self) -> NDArray[np.int64]:
        """(N,) a number below N for each: the same for equal digests alone."""
        return np.unique(self.values, return_inverse=True)[1].astype(np.int64)

    def shortened(self) -> NDArray[np.uint64]:
        """(N,) the first 8 bytes of each as a number, 0 where there is none: enough to know an image again."""
        return np.ascontiguousarray(self.table[:, :8]).view(">u8").ravel().astype(np.uint64)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Digests:
        """Those at some places, or where a mask is true."""
        return Digests(self.table[places])

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> Digests: ...
    def __getitem__(self, place: int | slice) -> bytes | Digests:
        if isinstance(place, slice):
            return Digests(self.table[place])
        row = self.table[place]
        return row.tobytes() if row.any() else b""

    def __setitem__(self, place: int, digest: bytes) -> None:
        self.table[place] = np.frombuffer(digest or bytes(DIGEST_BYTES), dtype=np.uint8)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digests) and np.array_equal(self.table, other.table)

    __hash__ = None  # type: ignore[assignment]


def data_fingerprint(images: ImageSet, rows: NDArray[np.int64], digests: Sequence[bytes]) -> str:
    """SHA-256 over the (id, class name, content digest) of each image, sorted by id.

    It depends on neither paths nor the order of files, so a folder and a Hub data set made from it agree.

    Args:
        images: The image set.
        rows: (N,) rows of it.
        digests: N content digests, one per row.

    Returns:
        64 hexadecimal digits.
    """
    fingerprint = hashlib.sha256(b"[")  # of a JSON list, line by line
    for number, place in enumerate(sorted(range(len(rows)), key=lambda place: images.ids[rows[place]])):
        row = rows[place]
        line = images.ids[row], images.class_names[images.labels[row]], digests[place].hex()
        fingerprint.update((", " if number else "").encode() + json.dumps(line).encode())
    fingerprint.update(b"]")
    return fingerprint.hexdigest()


def digest_images(images: ImageSet, rows: NDArray[np.int64], world: World = ALONE) -> Digests:
    """Content digest of each image in `rows`, read by one process and not decoded; a vanished file has none."""
    mine = np.arange(len(rows))[world.share(len(rows), 1)]
    digests = Digests.none(len(rows))
    for place, (row, encoded) in zip(mine.tolist(), images.reader.read(rows[mine].tolist()), strict=True):
        with suppress(UnreadableImageError):
            digests[place] = content_digest(encoded, images.ids[row])
    return Digests(world.sum(torch.from_numpy(digests.table)).numpy())
