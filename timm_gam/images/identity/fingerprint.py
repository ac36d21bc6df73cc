"""The identity of a set of images: which ids, classes and bytes it holds, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import ALONE, UnreadableImageError, World
from timm_gam.data import ImageSet
from timm_gam.images.decoding import content_digest
from timm_gam.images.identity.digests import Digests


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
