"""The published rule that splits any labelled image set into train and test without a random draw.

No standard split of COREL exists, and a random draw cannot be repeated from a paper's text. This rule can:
it needs only the ids. Order items by the SHA-256 of their UTF-8 id; the first part is test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IMAGE_RULE = "sha256: within each class, order images by SHA-256 of their id; the first 20 % are test"
CLASS_RULE = "sha256: order classes by SHA-256 of their name; the first 50 % are held out"


def published_split(ids: Sequence[str], labels: NDArray[np.int64], test_fraction: float = 0.2) -> NDArray[np.bool_]:
    """Which images are test: within each class, the first `test_fraction` in SHA-256 order of their ids.

    A class of n images gives floor(n * test_fraction) test images, but at least one where n >= 2; the only
    image of a class is train. The result does not depend on the order of `ids`.

    Args:
        ids: N unique image ids.
        labels: (N,) integer class of each image.
        test_fraction: Share of each class that is test, in (0, 1).

    Returns:
        (N,) bool, True where the image is test.

    >>> published_split(["a", "b", "c", "d", "e"], np.zeros(5, dtype=np.int64))
    array([False, False, False,  True, False])
    """
    is_test = np.zeros(len(ids), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = _share(len(members), test_fraction)
        is_test[members[_sha256_order([ids[int(i)] for i in members])[:count]]] = True
    return is_test


def published_class_split(class_names: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes are held out for class-disjoint (open-set) scoring, in SHA-256 order of their names.

    Args:
        class_names: C unique names.

    Returns:
        (C,) bool, True where the class is held out: half of them, at least one where C >= 2.

    >>> published_class_split(["cat", "dog", "fox", "owl"])
    array([False, False,  True,  True])
    """
    held_out = np.zeros(len(class_names), dtype=np.bool_)
    held_out[_sha256_order(class_names)[: _share(len(class_names), 0.5)]] = True
    return held_out


def _sha256_order(keys: Sequence[str]) -> NDArray[np.int64]:
    digests = [hashlib.sha256(key.encode("utf-8")).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.int64)


def _share(count: int, fraction: float) -> int:
    # The small term keeps 0.2 * 15 at 3 whatever the last bit of the product is.
    share = int(count * fraction + 1e-9)
    return max(share, 1) if count >= 2 else 0
