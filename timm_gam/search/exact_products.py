"""Exact products of blocks of integer vectors, on any device.

Float64 adds up the integers of `integer_vectors` without rounding. Where float64 is slow (consumer GPUs have a 64th of
their float32 rate) or 8-bit matrix units are there, integers are split into pieces that those units multiply exactly:
x = sum of p_i 2^(b i) with balanced pieces p_i in [-2^(b-1), 2^(b-1)], so x.y is the sum over i, j of
(p_i.q_j) 2^(b (i + j)). Pieces of equal i + j are laid side by side, so that n pieces take 2n - 1 matrix products and
no sum leaves what int32 or float32 hold exactly (the scheme of Ozaki et al., "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications", Numerical Algorithms 2012, here
without its remainder: all pieces are used).

No kernel rounds, so all give the same bits: the choice changes how long scoring takes and nothing else.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from timm_gam.search.blocks import in_threads, slices

_TILE_ROWS, _TILE_COLUMNS = 512, 2048  # of products that a thread computes at a time
_WHOLE = 32  # rows and components
_TIMED = 1024  # vectors, and components at most, of the products that are timed
_WORTH_TIMING = 1e11  # multiply-adds, a second or so of a CPU


class Kernel(Protocol):
    """One way to multiply blocks of integer vectors. Equal kernels are equal objects."""

    def bytes_per_vector(self, dim: int) -> int:
        """Of an operand, for each vector of `dim` components."""

    def operand(self, integers: Tensor) -> Tensor:
        """(B, D) float64 integers -> (B, ...) in the form this kernel multiplies; it may have more rows, of zeros."""

    def __hash__(self) -> int: ...

    def __str__(self) -> str:
        """What it computes with, for records."""

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Write every vector of one operand times every one of another, or of the same, into (R, C) float64 `out`."""


@dataclass(frozen=True)
class Float64:
    """float64 matrix product: NumPy's on the CPU, 1.7 times as fast as torch's on AMD, and torch's elsewhere."""

    def __str__(self) -> str:
        return "float64"

    def bytes_per_vector(self, dim: int) -> int:
        return 8 * dim

    def operand(self, integers: Tensor) -> Tensor:
        return integers

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        if out.device.type != "cpu":
            torch.mm(left, right.T, out=out)
            return
        same, a, b, product = left is right, left.numpy(), right.numpy(), out.numpy()

        def work(rows: slice) -> None:  # of a set with itself, one triangle of tiles, mirrored afterwards
            for columns in slices(rows.start if same else 0, len(b), _TILE_COLUMNS):
                np.matmul(a[rows], b[columns].T, out=product[rows, columns])

        def mirror(rows: slice) -> None:
            product[rows.stop :, rows] = product[rows, rows.stop :].T

        tiles = slices(0, len(a), _TILE_ROWS)
        in_threads(work, tiles)
        if same:
            in_threads(mirror, tiles)


@dataclass(frozen=True)
class Pieces:
    """Balanced pieces of integers, multiplied as int8 into int32 or as float32.

    An operand holds the pieces of each vector as [p_n-1 | ... | p_1 | p_0 | p_1 | ... | p_n-1]: read from the left they
    fall and from the middle they rise, so the slices of equal i + j lie side by side in both orders.

    Attributes:
        unit: "int8" or "float32".
        count: n, pieces of each component.
        bits: b, of each piece.
    """

    unit: Literal["int8", "float32"]
    count: int
    bits: int

    def __str__(self) -> str:
        return f"{self.unit} ({self.count} pieces of {self.bits} bits)"

    @classmethod
    def of(cls, unit: Literal["int8", "float32"], largest: float, dim: int) -> Pieces | None:
        """The fewest pieces that hold integers up to `largest`, and whose sums over `dim` components stay exact."""
        most, exact = (8, 2**31 - 1) if unit == "int8" else (12, 2**24)
        for count in range(1, 14):
            for bits in range(most, 1, -1):
                half = 2 ** (bits - 1)
                fits = (half - 1) * sum(2 ** (bits * i) for i in range(count)) >= largest
                if fits and count * dim * half**2 <= exact:
                    return cls(unit, count, bits)
        return None

    def bytes_per_vector(self, dim: int) -> int:
        return (2 * self.count - 1) * _ceil(dim) * (1 if self.unit == "int8" else 4)

    def operand(self, integers: Tensor) -> Tensor:
        (rows, dim), base = integers.shape, 2.0**self.bits
        dtype = torch.int8 if self.unit == "int8" else torch.float32
        # Matrix units take whole tiles: zeros fill the last.
        shape = _ceil(rows), 2 * self.count - 1, _ceil(dim)
        pieces = torch.zeros(shape, dtype=dtype, device=integers.device)
        for place in range(self.count):
            carried = (integers / base + 0.5).floor_()
            piece = integers - carried * base  # in [-base / 2, base / 2)
            for side in {self.count - 1 - place, self.count - 1 + place}:
                pieces[:rows, side, :dim] = piece
            integers = carried
        return pieces.view(len(pieces), -1)

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        n = self.count
        dim = left.shape[1] // (2 * n - 1)
        out.zero_()
        for weight in range(2 * n - 2, -1, -1):  # sums of the products that count 2^(bits weight)
            high, low = min(n - 1, weight), max(0, weight - n + 1)
            falling = left[:, (n - 1 - high) * dim : (n - low) * dim]  # p_high, ..., p_low
            rising = right[:, (n - 1 + low) * dim : (n + high) * dim]  # q_low, ..., q_high
            out *= 2.0**self.bits
            plane = torch._int_mm(falling, rising.T) if self.unit == "int8" else falling @ rising.T
            out += plane[: out.shape[0], : out.shape[1]]


def _ceil(count: int) -> int:
    return -(-count // _WHOLE) * _WHOLE


def kernels(largest: float, dim: int, device: torch.device) -> list[Kernel]:
    """Those that are exact on a device for vectors of `dim` integers up to `largest`."""
    found: list[Kernel] = [Float64()]
    for pieces in (Pieces.of("int8", largest, dim), Pieces.of("float32", largest, dim)):
        if pieces is not None and (pieces.unit != "int8" or _int8_is_exact(dim, device)):
            found.append(pieces)
    return found


def fastest_kernel(largest: float, dim: int, device: torch.device, products: float = np.inf) -> Kernel:
    """The fastest of `kernels` for so many dot products; each is timed once in a process, in some 50 ms.

    Float64 where there are few, and on CPUs: int8 pieces took 2 times as long on one with VNNI, and timing is no guide
    where others use its cores.
    """
    if device.type == "cpu" or products * dim < _WORTH_TIMING:
        return Float64()
    return min(kernels(largest, dim, device), key=lambda kernel: _seconds(kernel, min(dim, _TIMED), device))


@functools.cache
def _int8_is_exact(dim: int, device: torch.device) -> bool:
    """Whether torch multiplies int8 vectors of this length there and, at the ends of its range, without saturating."""
    values = np.random.default_rng(0).choice(np.array([-128, 127, 1, -1], dtype=np.int8), size=(2, 64, dim))
    values[:, :8] = [[[-128], [127]] * 4, [[127], [127]] * 4]  # rows whose sums are as large as they get
    expected = values[0].astype(np.int64) @ values[1].astype(np.int64).T
    try:
        left, right = torch.from_numpy(values).to(device)
        return np.array_equal(torch._int_mm(left, right.T).cpu().numpy(), expected)
    except (AttributeError, RuntimeError):  # this torch, or this machine, has none, or none of this length
        return False


@functools.cache
def _seconds(kernel: Kernel, dim: int, device: torch.device) -> float:
    integers = torch.from_numpy(np.random.default_rng(0).integers(-99, 100, size=(2, _TIMED, dim)).astype(np.float64))
    left, right = (kernel.operand(each) for each in integers.to(device))
    out = torch.empty((_TIMED, _TIMED), dtype=torch.float64, device=device)
    times = []
    for _ in range(4):  # the first run warms up
        began = time.perf_counter()
        kernel.multiply(left, right, out)
        out[-1, -1].item()  # waits for the device
        times.append(time.perf_counter() - began)
    return min(times[1:])
