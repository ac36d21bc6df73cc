"""Images that a data set holds more than once: the same bytes, or nearly the same picture.

The near ones are found by a difference hash: the picture is made grey and 17 x 16 pixels, and each of its 256 bits says
whether a pixel is brighter than its left neighbour (N. Krawetz, "Kind of Like That", 2013).
Scaling, recompression and brightness change few bits; another picture of the same scene changes many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
BITS = _SIDE * _SIDE
_ROWS, _COLUMNS = 1024, 2**14  # compared at once: 64 MiB


def difference_hash(image: Image.Image) -> NDArray[np.bool_]:
    """(256,) bool: where the shrunken grey image grows brighter to the right."""
    grey = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.LANCZOS), dtype=np.int16)
    return (grey[:, 1:] > grey[:, :-1]).reshape(-1)


def exact_groups(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two or more places with the same digest, in order of their first."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]


def near_pairs(hashes: NDArray[np.bool_], most: int) -> Iterator[tuple[int, int, int]]:
    """Every pair of images whose hashes differ in at most `most` bits.

    Args:
        hashes: (N, 256) bool.
        most: Bits, in [0, 256].

    Yields:
        (first, second, differing bits), first < second, in order.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))  # the product of two rows is 256 - 2 x differing bits
    for start in range(0, len(signs), _ROWS):
        rows = signs[start : start + _ROWS]
        found = []
        for there in range(start, len(signs), _COLUMNS):
            products = rows @ signs[there : there + _COLUMNS].T
            pairs = np.argwhere(products >= BITS - 2 * most)
            bits = (BITS - products[pairs[:, 0], pairs[:, 1]]) / 2
            found.append(np.column_stack([pairs[:, 0] + start, pairs[:, 1] + there, bits.astype(np.int64)]))
        pairs = np.concatenate(found)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        yield from map(tuple, pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist())
