"""Vectors as rows of length 1, without a second copy of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import EmbeddingError

Vectors = Tensor | NDArray[Any]
"""(N, D) numbers: a tensor, an array, or a memory map."""


class UnitVectors:
    """(N, D) rows of length 1: the vectors as they came, and their lengths. A row of zeros stays zero.

    Args:
        vectors: (N, D) floats on any device; memory maps are read where and when they are used. What is neither
            float32 nor float64 is copied as float32.

    Raises:
        EmbeddingError: a vector holds NaN or infinity.

    >>> UnitVectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))[:]
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """

    def __init__(self, vectors: Vectors, *more: Tensor) -> None:
        first = tensor_of(vectors)
        self._parts = [first, *more]
        lengths = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in self._parts])
        if not lengths.isfinite().all():
            row = int(lengths.isfinite().logical_not().nonzero()[0])
            raise EmbeddingError(f"vector {row} holds NaN or infinity; check the weights and the precision")
        self._scale = 1 / lengths.clamp(min=1e-30)
        self.shape = torch.Size([len(self._scale), first.shape[1]])
        self.dtype, self.device = first.dtype, first.device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """(R, D) of a slice or of (R,) int64 rows."""
        if len(self._parts) == 1:
            return self._parts[0][rows] * self._scale[rows, None]
        wanted = torch.arange(len(self), device=self.device)[rows]
        found = torch.empty(len(wanted), self.shape[1], dtype=self.dtype, device=self.device)
        start = 0
        for part in self._parts:
            here = (wanted >= start) & (wanted < start + len(part))
            found[here] = part[wanted[here] - start]
            start += len(part)
        return found * self._scale[wanted, None]

    def components(self, some: slice) -> Tensor:
        """(N, C) some components of all."""
        return torch.cat([part[:, some] for part in self._parts]) * self._scale[:, None]

    def similarities(self, queries: Tensor) -> Tensor:
        """(B, N) cosine similarities with (B, D) rows of length 1."""
        products = [queries @ part.T for part in self._parts]
        return (products[0] if len(products) == 1 else torch.cat(products, dim=1)).mul_(self._scale)

    def followed_by(self, more: Tensor) -> UnitVectors:
        """With (M, D) rows after them."""
        return UnitVectors(*self._parts, more) if len(more) else self

    @property
    def row_bytes(self) -> int:
        """Of one vector."""
        return self.shape[1] * self._scale.element_size()


def tensor_of(vectors: Vectors) -> Tensor:
    """Vectors as a tensor of floats over the same memory; a copy only where they are of another type."""
    if isinstance(vectors, Tensor):
        tensor = vectors
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            native = np.asarray(vectors)
            tensor = torch.from_numpy(native.astype(native.dtype.newbyteorder("="), copy=False))
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
