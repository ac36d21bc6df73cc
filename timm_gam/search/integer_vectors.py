"""Embeddings -> integers, so that scores can be computed without any rounding.

Every embedding is multiplied by one power of two (after L2 normalisation, for cosine) and rounded to integers, such
that the longest vector has a length of about 2^25. Products of such integers and all their partial sums stay below
2^53, so float64 arithmetic adds them up exactly: a score is the same for every block size, thread count, matrix
kernel, device and order of files, and equal embeddings tie exactly wherever they stand. The rounding itself moves a
component by at most 2^-26 of the longest vector's length, less than float32 arithmetic would.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import DataError, EmbeddingError
from timm_gam.search.blocks import in_threads, slices
from timm_gam.search.vectors import Vectors, as_vectors

Distance = Literal["cosine", "euclidean"]

Rows = slice | NDArray[np.int64]
"""Consecutive rows, or any."""

_LONGEST = 2.0**25  # length of an integer vector; four of its square, as in |q - g|^2, stay below float64's 2^53
_SHORTEST = 1e-300  # of float64 vectors; factors of shorter ones overflow
UNEQUAL = 2.0**13  # the longest to all but the shortest tenth, which keep 12 bits
ANY_SCALE = 2.0**1000  # of vectors that are all zero
_NORMAL = _LONGEST / 1e15, _LONGEST * 1e15  # factors of vectors whose float32 products neither overflow nor vanish
_CPU_ROWS, _DEVICE_ROWS = 256, 8192  # read at a time: what fits into cache, what keeps a device busy
_TILE_ROWS = 64  # written at a time on the CPU


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """N embeddings as integer vectors, computed from the embeddings whenever a block of them is asked for.

    Nothing is copied: the embeddings may be a memory map larger than memory.

    Attributes:
        embeddings: (M, D) array, memory map or tensor.
        factor: (M,) float64, where lengths were computed; integer vector i is embedding i times this, rounded.
        distance: What the factors were made for.
        rows: (N,) int64 rows of `embeddings` that belong to this selection, or None for all.
    """

    embeddings: Vectors
    factor: Tensor
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

    def integers(self, rows: Rows, device: torch.device | str = "cpu", out: Tensor | None = None) -> Tensor:
        """(B, D) float64 integers of a block of rows, on a device; in the memory of `out` where they fit into it."""
        chosen: Any = rows if self.rows is None else self.rows[rows]
        if isinstance(chosen, slice):
            chosen = range(len(self.embeddings))[chosen]
        if out is None or out.dtype != torch.float64 or len(out) < len(chosen):  # used again, it needs no new pages
            out = torch.empty(len(chosen), self.dim, dtype=torch.float64, device=device)
        integers = out[: len(chosen)]

        def write(tile: slice) -> None:
            some = chosen[tile]
            some = slice(some.start, some.stop) if isinstance(some, range) else some
            factor = self.factor[some][:, None].to(device)
            integers[tile].copy_(_read(self.embeddings, some)).mul_(factor).round_()

        in_threads(write, slices(0, len(chosen), _TILE_ROWS if integers.device.type == "cpu" else max(1, len(chosen))))
        return integers

    @functools.cached_property
    def raw(self) -> bool:
        """Whether float32 products of the embeddings, times their factors, are as good as those of the integers."""
        single = isinstance(self.embeddings, np.ndarray) and self.embeddings.dtype == np.float32
        low, high = _NORMAL
        return single and self.distance == "cosine" and bool(((self.factor > low) & (self.factor < high)).all())

    def raw_block(self, rows: slice) -> tuple[NDArray[np.float32], Tensor]:
        """(B, D) embeddings of a block of rows as they are, where `raw`, and their (B,) factors."""
        chosen: Any = rows if self.rows is None else self.rows[rows]
        return np.asarray(self.embeddings[chosen]), self.factor[chosen]

    def in_units(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of these vectors in the units people know: cosine similarity in [-1, 1], or Euclidean distance."""
        if self.distance == "cosine":
            return scores / _LONGEST**2
        units: NDArray[np.float64] = np.sqrt(-scores) / float(self.factor[0])  # the same for all
        return units


def fixed_point(
    embeddings: Vectors, distance: Distance = "cosine", *, device: torch.device | str | None = None
) -> FixedPoint:
    """Prepare embeddings for exact scores.

    Args:
        embeddings: (N, D) real numbers of any precision: NumPy array, memory map or tensor; read once here, in blocks.
        distance: "cosine" normalises each row to length 1 (a row of zeros stays zero and scores 0 against everything);
            "euclidean" leaves lengths as they are.
        device: Where lengths are computed, with the same result everywhere; default where the embeddings are.

    Raises:
        DataError: no such distance.
        EmbeddingError: not a matrix of real numbers, a value that is missing or not finite (the first such row is
            named), vectors shorter than 1e-300, or for Euclidean distance one that is 8,192 times as long as others.

    >>> points = fixed_point(np.array([[3.0, 4.0], [6.0, 8.0]]))
    >>> points.integers(slice(None)).tolist()
    [[20132659.0, 26843546.0], [20132659.0, 26843546.0]]
    """
    if distance not in (legal := get_args(Distance)):
        raise DataError(f"distance is '{distance}'; legal: {', '.join(legal)}")
    embeddings = as_vectors(embeddings)
    place = torch.device(device or (embeddings.device if isinstance(embeddings, Tensor) else "cpu"))
    lengths = torch.empty(len(embeddings), dtype=torch.float64)

    def measure(rows: slice) -> None:
        lengths[rows] = _lengths(_read(embeddings, rows).to(place, torch.float64)).cpu()

    if place.type == "cpu":
        in_threads(measure, slices(0, len(embeddings), _CPU_ROWS))
    else:
        list(map(measure, slices(0, len(embeddings), _DEVICE_ROWS)))
    bad = torch.nonzero(~torch.isfinite(lengths))
    if len(bad):
        raise EmbeddingError(
            f"embedding of image {int(bad[0])} holds NaN or infinity; check the weights and the precision"
        )
    short = torch.nonzero((lengths > 0) & (lengths < _SHORTEST))
    if len(short):
        raise EmbeddingError(f"embedding of image {int(short[0])} has a length below {_SHORTEST}; multiply all of them")
    if distance == "cosine":
        factor = _LONGEST / torch.where(lengths > 0, lengths, 1.0)
    else:
        factor = torch.full_like(lengths, _one_scale(lengths))
    return FixedPoint(embeddings, factor.to(place), distance)


def _one_scale(lengths: Tensor) -> float:
    """For all lengths: where one vector is far longer than others, rounding would make these one point."""
    ordered = lengths[lengths > 0].sort().values
    if not len(ordered):
        return ANY_SCALE
    if (ratio := float(ordered[-1] / ordered[len(ordered) // 10])) > UNEQUAL:
        raise EmbeddingError(
            f"embedding of image {int(lengths.argmax())} is {ratio:.2g} times as long as the shortest tenth; legal for "
            f"euclidean distance: {UNEQUAL:.0f}; leave it out, or use cosine"
        )
    return float(np.exp2(np.floor(np.log2(_LONGEST / float(ordered[-1])))))


def scoring_device(device: torch.device | str) -> torch.device:
    """Where exact scores of vectors on a device are computed: there, or on the CPU where it has no float64 (mps).

    >>> scoring_device("mps:0"), scoring_device("cuda:1")
    (device(type='cpu'), device(type='cuda', index=1))
    """
    place = torch.device(device)
    return torch.device("cpu") if place.type == "mps" else place


def resident(vectors: Vectors, device: torch.device, memory: int) -> tuple[Vectors, int]:
    """Vectors where they are computed with, if a copy of them fits half the memory that may be used there.

    Args:
        vectors: (N, D) numbers, anywhere.
        device: Where they are computed with.
        memory: Bytes that may be used beyond the vectors as they came.

    Returns:
        The vectors, on the device or as they came, and the bytes that may still be used.
    """
    if device.type == "cpu" or vectors.nbytes > memory // 2:
        return vectors, memory
    there = isinstance(vectors, Tensor) and vectors.device == device
    return torch.as_tensor(vectors, device=device), memory - (0 if there else vectors.nbytes)


def _read(vectors: Vectors, rows: Rows) -> Tensor:
    """A block of vectors as a tensor, where they are."""
    if isinstance(vectors, Tensor):
        return vectors[rows]
    # A copy where it is of another byte order, or open for reading only, which torch warns of.
    return torch.from_numpy(np.require(vectors[rows], vectors.dtype.newbyteorder("="), ["C", "W"]))


def _lengths(block: Tensor) -> Tensor:
    """(B,) lengths of the rows of a float64 block: the same on every device."""
    greatest = block.abs().amax(dim=1)
    # The square of a tiny or huge float64 is not representable; a power of two rounds nothing.
    scale = torch.ldexp(torch.ones_like(greatest), -torch.frexp(greatest).exponent.clamp(-1000, 1000))
    return _row_sums((block * scale[:, None]).square_()).sqrt() / scale


def _row_sums(block: Tensor) -> Tensor:
    """(B,) sums of the rows, halves added to each other: in one order wherever they are added. Overwrites `block`."""
    width = block.shape[1]
    while width > 1:
        half = (width + 1) // 2
        block[:, : width - half] += block[:, half:width]
        width = half
    return block[:, 0]
