"""Vectors as people have them: NumPy arrays, memory maps, torch tensors on any device, lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import EmbeddingError, one_line

Vectors = NDArray[Any] | Tensor
"""(N, D) real numbers: NumPy array, memory map, or torch tensor on any device."""


def as_vectors(vectors: Vectors | Sequence[Sequence[float]]) -> Vectors:
    """The same numbers, none copied, as something of shape (N, D) that can be computed with.

    Raises:
        EmbeddingError: not a matrix of real numbers, or masked values.

    >>> as_vectors([[1, 0], [0, 1]]).shape
    (2, 2)
    """
    if isinstance(vectors, Tensor):
        vectors, real = vectors.detach(), not vectors.is_complex()
    else:
        if np.ma.is_masked(vectors):
            raise EmbeddingError("vectors have masked values; give them without, as a plain array")
        try:
            vectors = vectors if isinstance(vectors, np.ndarray) else np.asarray(vectors)
        except (ValueError, TypeError) as error:
            raise EmbeddingError(f"vectors are no regular array: {one_line(error)}") from error
        real = vectors.dtype.kind in "fiu"
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise EmbeddingError(f"vectors have shape {tuple(vectors.shape)}; a matrix (N, D) with D >= 1 is needed")
    if not real:
        raise EmbeddingError(f"vectors are of type {vectors.dtype}; real numbers are needed")
    return vectors
