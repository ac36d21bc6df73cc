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
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from timm_gam.search.blocks import in_threads, slices

_TILE_ROWS, _TILE_COLUMNS = 512, 2048  # of products that a thread computes at a time
_WHOLE = 32  # rows and components
_TIMED = 1024  # vectors of the products that are timed
_WORTH_TIMING = 1e11  # multiply-adds, a second or so of a CPU


@dataclass(frozen=True)
class Float64:
    """float64 matrix product: NumPy's on the CPU, 1.7 times as fast as torch's on AMD, and torch's elsewhere."""

    def __str__(self) -> str:
        return "float64"

    def bytes_per_vector(self, dim: int) -> int:
        """Of an operand, for each vector of `dim` components."""
        return 8 * dim

    def operand(self, integers: Tensor) -> Tensor:
        """(B, D) float64 integers -> (B, ...) in the form this kernel multiplies; it may have more rows, of zeros."""
        return integers

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Write every vector of one operand times every one of another, or of the same, into (R, C) float64 `out`."""
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


Kernel = Float64 | Pieces
"""One way to multiply blocks of integer vectors, as `Float64` does; equal kernels are equal objects."""


def fastest_kernel(largest: float, dim: int, device: torch.device, products: float = np.inf) -> Kernel:
    """The fastest that is exact for so many dot products of `dim` integers up to `largest`, timed once in a process.

    Float64 where there are few, and on CPUs: there, 3 int8 pieces on VNNI units took as long.
    """
    if device.type == "cpu" or products * dim < _WORTH_TIMING:
        return Float64()
    pieces = [Pieces.of("int8", largest, dim), Pieces.of("float32", largest, dim)]
    exact: list[Kernel] = [Float64(), *(kernel for kernel in pieces if kernel is not None)]
    return min(exact, key=lambda kernel: seconds(kernel, largest, dim, device))


@functools.cache
def seconds(kernel: Kernel, largest: float, dim: int, device: torch.device) -> float:
    """That a block of products takes; infinity where torch or the device has none or, at the ends of the range, rounds
    or saturates them."""
    values = np.random.default_rng(0).choice([-32896.0, 32639.0, 1.0, -1.0], size=(2, _TIMED, dim))  # the ends of int8
    values[:, :8] = [[[-32896.0], [32639.0]] * 4, [[32639.0], [32639.0]] * 4]
    left, right = torch.from_numpy(values.clip(-largest, largest)).to(device)
    expected, out = left @ right.T, torch.empty(_TIMED, _TIMED, dtype=torch.float64, device=device)
    times = []
    try:
        operands = kernel.operand(left), kernel.operand(right)
        for _ in range(4):  # the first run warms up
            began = time.perf_counter()
            kernel.multiply(*operands, out)
            out[-1, -1].item()  # waits for the device
            times.append(time.perf_counter() - began)
    except (AttributeError, RuntimeError):
        return np.inf
    return min(times[1:]) if torch.equal(out, expected) else np.inf
