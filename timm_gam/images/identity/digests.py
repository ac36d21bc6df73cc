"""Many SHA-256 digests in 32 bytes each; as Python objects they take four times that and one object an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

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

    def groups(self) -> NDArray[np.int64]:
        """(N,) a number below N for each: the same for equal digests alone."""
        _, groups = np.unique(self.values, return_inverse=True)
        return groups.astype(np.int64)

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

    def __iter__(self) -> Iterator[bytes]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digests) and np.array_equal(self.table, other.table)

    __hash__ = None  # type: ignore[assignment]


def exact_groups(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two or more places with the same digest, in order of their first."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]
