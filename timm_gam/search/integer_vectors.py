"""Embeddings -> integers, so that scores can be computed without any rounding.

Every embedding is multiplied by one power of two (after L2 normalisation, for cosine) and rounded to integers, such
that the longest vector has a length of about 2^25. Products of such integers and all their partial sums stay below
2^53, so float64 arithmetic adds them up exactly: a score is the same for every block size, thread count, matrix
kernel and order of files, and equal embeddings tie exactly wherever they stand. The rounding itself moves a
component by at most 2^-26 of the longest vector's length, less than float32 arithmetic would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import EmbeddingError

__all__ = ["Distance", "FixedPoint", "fixed_point"]

Distance = Literal["cosine", "euclidean"]

_LONGEST = 2.0**25  # length of an integer vector; four of its square, as in |q - g|^2, stay below float64's 2^53
_ROWS = 1024  # read at a time


@dataclass(frozen=True)
class FixedPoint:
    """N embeddings as integer vectors, computed from the embeddings whenever a block of them is asked for.

    Nothing is copied: the embeddings may be a memory map larger than memory.

    Attributes:
        embeddings: (M, D) float array or memory map.
        factor: (M,) float64; integer vector i is embedding i times this, rounded.
        largest: (D,) float64; no integer of a component is larger in absolute value.
        distance: What the factors were made for.
        rows: (N,) int64 rows of `embeddings` that belong to this selection, or None for all.
    """

    embeddings: NDArray[np.floating]
    factor: NDArray[np.float64]
    largest: NDArray[np.float64]
    distance: Distance
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.embeddings) if self.rows is None else len(self.rows)

    @property
    def dim(self) -> int:
        """D, the length of each vector."""
        return int(self.embeddings.shape[1])

    def take(self, rows: NDArray[np.int64]) -> FixedPoint:
        """A selection of these vectors by (K,) int64 rows of them; no vector is copied."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        return dataclasses.replace(self, rows=rows if self.rows is None else self.rows[rows])

    def integers(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """(B, D) float64 integers of a block of rows."""
        chosen = rows if self.rows is None else self.rows[rows]
        block = self.embeddings[chosen].astype(np.float64)
        block *= self.factor[chosen][:, None]
        return np.rint(block, out=block)

    def in_units(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of these vectors in the units people know: cosine similarity in [-1, 1], or Euclidean distance."""
        if self.distance == "cosine":
            return scores / _LONGEST**2
        units: NDArray[np.float64] = np.sqrt(-scores) / self.factor[0]  # the same for all
        return units


def fixed_point(embeddings: NDArray[np.floating], distance: Distance = "cosine") -> FixedPoint:
    """Prepare embeddings for exact scores.

    Args:
        embeddings: (N, D) float of any precision, in memory or memory-mapped; read once here, in blocks.
        distance: "cosine" normalises each row to length 1 (a row of zeros stays zero and scores 0 against everything);
            "euclidean" leaves lengths as they are.

    Raises:
        EmbeddingError: not a matrix, or a value that is not finite (the first such row is named).
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise EmbeddingError(f"embeddings have shape {embeddings.shape}; a matrix (N, D) with D >= 1 is needed")
    lengths, largest = np.empty(len(embeddings)), np.zeros(embeddings.shape[1])
    for rows, block in _blocks(embeddings):
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise EmbeddingError(
                f"embedding of image {rows.start + bad[0]} holds NaN or infinity; check the weights and the precision"
            )
        lengths[rows] = _lengths(block)
        if distance == "cosine":
            block /= _or_one(lengths[rows])[:, None]
        np.maximum(largest, np.abs(block, out=block).max(axis=0), out=largest)
    normal = _or_one(lengths) if distance == "cosine" else np.ones(len(embeddings))
    longest = float((lengths / normal).max(initial=0.0))
    scale = np.exp2(np.floor(np.log2(_LONGEST / longest))) if longest > 0 else 1.0
    # A component may round to the next integer here and not there: one more is never too few.
    return FixedPoint(embeddings, scale / normal, np.rint(largest * scale) + 1.0, distance)


def _lengths(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) lengths of the rows of a block."""
    # Divided by its largest value first: the square of a tiny or huge float64 is not representable.
    largest = np.abs(block).max(axis=1)
    small = block / _or_one(largest)[:, None]
    lengths: NDArray[np.float64] = largest * np.sqrt(np.einsum("nd,nd->n", small, small))
    return lengths


def _or_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values to divide by: 1 in the place of 0."""
    return np.where(values > 0, values, 1.0)


def _blocks(matrix: NDArray[np.floating]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    for start in range(0, len(matrix), _ROWS):
        rows = slice(start, min(start + _ROWS, len(matrix)))
        yield rows, matrix[rows].astype(np.float64)
