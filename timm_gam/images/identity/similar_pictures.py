"""How much alike two pictures are, so that nearly the same one is found wherever it stands.

It is the correlation of their gradients at 16 x 16 grey pixels. Scaling, recompression, brightness or contrast leave it
near 1, the next frame of a scene lies around 0.9, a slide border or a tighter crop of the same photo around 0.8, and
other pictures of the same kind below. Edges agree only where the same things stand in the same places; grey values, or
difference hashes, also agree for any two suns over any two seas.

The gradients' products need no gradients: with free borders, the squared difference operator is diagonal under the
cosine transform (G. Strang, "The Discrete Cosine Transform", SIAM Review 1999), so a picture's signature is the
transform of its thumbnail, each frequency times the root of its eigenvalue, in 256 signed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_SIDE = 16
SIGNATURE_BYTES = _SIDE * _SIDE
NEAR = 0.85
"""Pictures at least this much alike are near-duplicates: of 58 million pairs of CorelDB 45, as one sees by eye."""

_ROWS, _COLUMNS = 1024, 4096  # compared at once: 16 MB, and 64 MB more where all are alike


# The (16, 16) orthonormal cosine transform, and the root of each frequency pair's eigenvalue.
_FREQUENCIES = np.arange(_SIDE)
_SCALES = np.sqrt(np.where(_FREQUENCIES == 0, 1, 2) / _SIDE)[:, None]
_COSINES = (_SCALES * np.cos(np.pi / _SIDE * _FREQUENCIES[:, None] * (_FREQUENCIES + 0.5))).astype(np.float32)
_EIGENVALUES = 4 * np.sin(np.pi * _FREQUENCIES / (2 * _SIDE)) ** 2
_WEIGHTS = np.sqrt(_EIGENVALUES[:, None] + _EIGENVALUES).astype(np.float32)


def signature(image: Image.Image) -> NDArray[np.int8]:
    """(256,) int8 for an RGB or grey image; `likeness` compares two of them.

    >>> sky = Image.linear_gradient("L")
    >>> float(likeness(signature(sky)[None], signature(sky.resize((90, 60)))[None])) > 0.99
    True
    """
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    waves = _COSINES @ np.asarray(small, dtype=np.float32) @ _COSINES.T * _WEIGHTS
    largest = float(np.abs(waves).max())
    if largest < 1e-3:  # one flat tone, like any other up to brightness: the constant stands for it
        waves[0, 0] = largest = 1.0
    bytes_: NDArray[np.int8] = np.rint(waves * (127 / largest)).astype(np.int8).reshape(-1)
    return bytes_


def likeness(left: NDArray[np.int8], right: NDArray[np.int8], device: torch.device | str = "cpu") -> Tensor:
    """(R, C) float32 in [-1, 1] on `device`: how alike R pictures are to C others, by their signatures.

    The products are of whole numbers below 2^24, so a pair has the same likeness in every block and on every device.
    """
    rows, columns = (torch.from_numpy(np.ascontiguousarray(each)).to(device).float() for each in (left, right))
    alike = rows @ columns.T
    for axis, each in ((1, rows), (0, columns)):
        alike.div_(each.square().sum(dim=1).sqrt_().clamp_(min=1).unsqueeze(axis))
    return alike


def alike_pairs(signatures: NDArray[np.int8], least: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Every pair of images that are at least so much alike, in order, found in bounded memory.

    Args:
        signatures: (N, 256) int8.
        least: In [-1, 1].

    Yields:
        (first, second, likeness), first < second.
    """
    for start in range(0, len(signatures), _ROWS):
        found: list[tuple[int, int, float]] = []
        for rows, columns, alike in _alike(signatures, start, least):
            found += zip(rows.tolist(), columns.tolist(), alike.tolist(), strict=True)
        yield from sorted(found)


def alike_groups(
    signatures: NDArray[np.int8], least: float = NEAR, on_progress: Callable[[int], None] = lambda images: None
) -> list[list[int]]:
    """Groups of two or more images, each at least so much alike to another of its group, found in bounded memory.

    However many pairs there are, as among thousands of frames of one scene, what is kept is one number for an image.

    Args:
        signatures: (N, 256) int8.
        least: In [-1, 1].
        on_progress: Called with the number of images just compared with all others.

    >>> sky, sea = signature(Image.linear_gradient("L")), signature(Image.radial_gradient("L"))
    >>> alike_groups(np.stack([sky, sea, sky]))
    [[0, 2]]
    """
    group = np.arange(len(signatures))
    for start in range(0, len(signatures), _ROWS):
        for rows, columns, _ in _alike(signatures, start, least):
            group = _joined(group, rows, columns)
        on_progress(min(_ROWS, len(signatures) - start))
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    return sorted(each.tolist() for each in np.split(order, cuts) if len(each) > 1)


def _alike(
    signatures: NDArray[np.int8], start: int, least: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Pairs of the images from `start` on and later ones, with their likeness, a block at a time."""
    for column in range(start, len(signatures), _COLUMNS):
        alike = likeness(signatures[start : start + _ROWS], signatures[column : column + _COLUMNS]).numpy()
        near = alike >= least
        if column < start + _ROWS:
            near &= np.arange(len(near))[:, None] < np.arange(column - start, column - start + near.shape[1])
        rows, columns = np.nonzero(near)
        if len(rows):
            yield start + rows, column + columns, alike[rows, columns]


def _joined(group: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group of each image once the groups of each of these pairs are one."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    one, other = group[rows], group[columns]
    apart = one != other
    if not apart.any():
        return group
    pairs = np.ones(int(apart.sum()), dtype=np.bool_), (one[apart], other[apart])
    _, joined = connected_components(coo_array(pairs, shape=(len(group), len(group))), directed=False)
    made: NDArray[np.int64] = joined[group].astype(np.int64)
    return made
