"""Exact dot products of integer vectors, by the fastest of the matrix kernels at hand.

NumPy and torch bring different BLAS libraries, and processors with 8-bit matrix units (AMX, VNNI and their like)
multiply small integers ten to twenty times as fast as float64. On the integers of `integer_vectors` no kernel
rounds, so all give the same bits: the choice changes how long scoring takes and nothing else.

8-bit digits: an integer x in balanced base 256 is the sum of d_i 256^i with digits d_i in [-128, 127], so x.y is the
sum over i, j of (d_i.e_j) 256^(i+j). A matrix unit adds up each d_i.e_j in int32 without overflow. Digits of equal
i + j are laid side by side, so that n digits take 2n - 1 products and not n squared (the scheme of Ozaki et al.,
"Error-free transformations of matrix multiplication by using fast routines of matrix multiplication and its
applications", Numerical Algorithms 2012, here without its remainder: all digits are used).

Features of real networks have a few components with now and then a value that takes one digit more than all others.
It is left out of the digits, and what is missing for it is multiplied in float64, by matrices as narrow as the
components are few.
"""

from __future__ import annotations

import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.search.blocks import single_threaded_workers, slices

__all__ = ["Digits", "Kernel", "NumpyFloat64", "TorchFloat64", "fastest_kernel", "kernels"]

Run = Callable[[Callable[[slice], None], Iterable[slice]], Iterator[None]]
"""Works on slices one by one, as `map` does, or several at a time, as that of a pool of threads."""

_BASE = 256
_TILE_ROWS, _TILE_COLUMNS = 512, 1024  # of products that a thread computes at a time
_ADDED_ROWS = 32  # of them that it adds up at a time, in cache
_LARGEST_SUM = 2**31 - 1  # of int32
_CACHE_LINE = 64  # bytes
_FEW = 16  # large components are few where no more than one in so many is
_TIMED_ROWS, _TIMED_DIM = 1024, 2048  # vectors, and the most components, of the products that are timed


class Kernel(ABC):
    """One way to multiply blocks of integer vectors. Equal kernels are equal objects."""

    @abstractmethod
    def bytes_per_vector(self, dim: int) -> int:
        """Of an operand, for each vector of `dim` components."""

    @abstractmethod
    def scratch_bytes(self, columns: int) -> int:
        """That each thread needs while it multiplies by a right operand of `columns` vectors."""

    @abstractmethod
    def operand(self, count: int, dim: int) -> NDArray[Any]:
        """Room for `count` vectors of `dim` components, one row each, in the form this kernel multiplies."""

    @abstractmethod
    def fill(self, operand: NDArray[Any], integers: NDArray[np.float64]) -> None:
        """Write (B, D) float64 integers into (B, ...) rows of an operand."""

    @abstractmethod
    def multiply_tile(self, left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float64]) -> None:
        """Write every row of one operand times every row of another into (R, C) `out`, in this thread."""

    def multiply(self, left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float64], run: Run) -> None:
        """Write every row of one operand times every row of another, or of the same, into (R, C) `out`.

        Of an operand with itself, one triangle of tiles is computed and mirrored.
        """
        same = left is right

        def work(rows: slice) -> None:
            for columns in slices(rows.start if same else 0, len(right), _TILE_COLUMNS):
                self.multiply_tile(left[rows], right[columns], out[rows, columns])

        tiles = slices(0, len(left), _TILE_ROWS)
        list(run(work, tiles))
        if same:

            def mirror(rows: slice) -> None:
                out[rows.stop :, rows] = out[rows, rows.stop :].T

            list(run(mirror, tiles))

    def products(self, left: NDArray[np.float64], right: NDArray[np.float64], run: Run = map) -> NDArray[np.float64]:
        """(R, D) and (C, D) float64 integers -> (R, C) float64: `fill` and `multiply` in one."""
        operands = []
        for integers in (left,) if left is right else (left, right):
            operands.append(self.operand(*integers.shape))
            self.fill(operands[-1], integers)
        out = np.empty((len(left), len(right)))
        self.multiply(operands[0], operands[-1], out, run)
        return out


@dataclass(frozen=True)
class NumpyFloat64(Kernel):
    """NumPy's matrix product."""

    def bytes_per_vector(self, dim: int) -> int:
        return 8 * dim

    def scratch_bytes(self, columns: int) -> int:
        return 0

    def operand(self, count: int, dim: int) -> NDArray[Any]:
        return np.empty((count, dim))

    def fill(self, operand: NDArray[Any], integers: NDArray[np.float64]) -> None:
        operand[:] = integers

    def multiply_tile(self, left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float64]) -> None:
        np.matmul(left, right.T, out=out)


@dataclass(frozen=True)
class TorchFloat64(NumpyFloat64):
    """torch's matrix product."""

    def multiply_tile(self, left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float64]) -> None:
        torch.mm(torch.from_numpy(left), torch.from_numpy(right).T, out=torch.from_numpy(out))


@dataclass(frozen=True)
class Digits(Kernel):
    """Balanced base-256 digits, multiplied by torch's int8 matrix product.

    An operand holds the digits of each vector as [d_n-1 | ... | d_1 | d_0 | d_1 | ... | d_n-1]: read from the left they
    fall and from the middle they rise, so the slices of equal i + j lie side by side in both orders.

    Of the large components, whose values x may need more digits, it holds x, the carry c = x - l and the rest l that
    the n digits make, as float64 before the digits: x.y = l.l' + (c.x' + l.c').

    torch misreads operands of a single column, and little is gained with a few:
    vectors have at least `shortest` components.

    Attributes:
        count: n, digits of each component, 1 to 4.
        large: Components that hold more than those, ascending.
    """

    count: int
    large: tuple[int, ...] = ()
    shortest: ClassVar[int] = 16

    def bytes_per_vector(self, dim: int) -> int:
        # An odd number of cache lines: rows a multiple of 4096 bytes apart would share the same few of a cache.
        lines = -(-(self._head + (2 * self.count - 1) * dim) // _CACHE_LINE)
        return _CACHE_LINE * (lines | 1)

    @property
    def _head(self) -> int:
        """Bytes before the digits, whole cache lines."""
        return _CACHE_LINE * -(-3 * 8 * len(self.large) // _CACHE_LINE)

    def scratch_bytes(self, columns: int) -> int:
        return 4 * (2 * self.count - 1) * _TILE_ROWS * min(columns, _TILE_COLUMNS)

    @staticmethod
    def reach(count: int) -> int:
        """The largest absolute value of which `count` digits hold both signs."""
        return sum(127 * _BASE**i for i in range(count))

    @property
    def longest(self) -> int:
        """Components of the longest vectors of which int32 holds all sums."""
        return _LARGEST_SUM // (self.count * 128 * 128)

    def operand(self, count: int, dim: int) -> NDArray[Any]:
        # torch aligns to cache lines, which matrix units read faster.
        room = torch.empty((count, self.bytes_per_vector(dim)), dtype=torch.int8).numpy()
        return room[:, : self._head + (2 * self.count - 1) * dim]

    def fill(self, operand: NDArray[Any], integers: NDArray[np.float64]) -> None:
        # x + (128, ..., 128) has the plain base-256 digits d_i + 128, which are the bytes of that integer in memory;
        # flipping the highest bit of each takes the 128 off again.
        shift = sum(128 * _BASE**i for i in range(self.count))
        shifted = integers.astype("<i4").view("<u4")
        shifted += np.uint32(shift)
        if self.large:
            large = integers[:, self.large]
            carry = np.floor((large + shift) / _BASE**self.count) * _BASE**self.count
            self._large(operand)[:] = np.concatenate([large, carry, large - carry], axis=1)
        shifted ^= np.uint32(shift)
        parts = shifted.view(np.int8).reshape(*integers.shape, 4)
        dim = integers.shape[1]
        digits = operand[:, self._head :]
        for place in range(2 * self.count - 1):
            digits[:, place * dim : (place + 1) * dim] = parts[..., abs(self.count - 1 - place)]

    def _large(self, operand: NDArray[Any]) -> NDArray[np.float64]:
        """(R, 3 M) float64 of an operand: the M large components x, c and l."""
        return operand[:, : 3 * 8 * len(self.large)].view(np.float64)

    def multiply_tile(self, left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float64]) -> None:
        n, dim = self.count, (left.shape[1] - self._head) // (2 * self.count - 1)
        first, second = left[:, self._head :], right[:, self._head :]
        planes = list(_scratch((2 * n - 1, len(left), len(right))))
        for weight, plane in enumerate(planes):  # sums of the products that count 256^weight
            high, low = min(n - 1, weight), max(0, weight - n + 1)
            falling = slice((n - 1 - high) * dim, (n - low) * dim)  # d_high, ..., d_low
            rising = slice((n - 1 + low) * dim, (n + high) * dim)  # e_low, ..., e_high
            torch._int_mm(torch.from_numpy(first[:, falling]), torch.from_numpy(second[:, rising]).T, out=plane)
        for rows in slices(0, len(out), _ADDED_ROWS):
            total = planes[-1][rows].numpy().astype(np.float64)
            for plane in planes[-2::-1]:
                total *= _BASE
                total += plane[rows].numpy()
            out[rows] = total
        if self.large:
            carry_rest = torch.from_numpy(self._large(left)[:, len(self.large) :])
            whole_carry = torch.from_numpy(self._large(right)[:, : 2 * len(self.large)])
            torch.from_numpy(out).addmm_(carry_rest, whole_carry.T)


def kernels(largest: NDArray[np.float64]) -> list[Kernel]:
    """The kernels that are exact here for vectors of D integers of these (D,) largest absolute values."""
    found: list[Kernel] = [NumpyFloat64(), TorchFloat64()]
    if len(largest) < Digits.shortest or not _int8_products_are_exact():
        return found
    for count in (1, 2, 3, 4):  # with fewer digits than all need where few components are large, and with all
        large = np.flatnonzero(largest > Digits.reach(count))
        digits = Digits(count, tuple(large.tolist()))
        if len(large) * _FEW <= len(largest) <= digits.longest:
            found.append(digits)
        if len(large) == 0:
            break
    return found


def fastest_kernel(largest: NDArray[np.float64]) -> Kernel:
    """The fastest of `kernels` on this machine, each timed once in a process in some 50 ms."""
    dim = min(len(largest), _TIMED_DIM)

    def seconds(kernel: Kernel) -> float:
        if isinstance(kernel, Digits):  # which components are large makes no difference, how many does
            kernel = Digits(kernel.count, tuple(range(min(len(kernel.large), dim))))
        return _seconds(kernel, dim)

    return min(kernels(largest), key=seconds)


@functools.cache
def _int8_products_are_exact() -> bool:
    """Whether torch multiplies int8 here and, at the ends of its range, without saturating on the way."""
    values = np.random.default_rng(0).choice(np.array([-128, 127, 1, -1], dtype=np.int8), size=(2, 67, 517))
    values[:, :8] = [[[-128], [127]] * 4, [[127], [127]] * 4]  # rows whose sums are as large as they get
    expected = values[0].astype(np.int64) @ values[1].astype(np.int64).T
    try:
        got = torch._int_mm(torch.from_numpy(values[0]), torch.from_numpy(values[1]).T)
    except (AttributeError, RuntimeError):  # this torch, or this machine, has none
        return False
    return np.array_equal(got.numpy(), expected)


@functools.cache
def _seconds(kernel: Kernel, dim: int) -> float:
    values = np.random.default_rng(0).integers(-127, 128, size=(2, _TIMED_ROWS, dim)).astype(np.float64)
    left, right = (kernel.operand(_TIMED_ROWS, dim) for _ in values)
    kernel.fill(left, values[0])
    kernel.fill(right, values[1])
    out = np.empty((_TIMED_ROWS, _TIMED_ROWS))
    times = []
    with single_threaded_workers() as pool:
        for _ in range(4):  # the first run warms up
            began = time.perf_counter()
            kernel.multiply(left, right, out, pool.map)
            times.append(time.perf_counter() - began)
    return min(times[1:])


_local = threading.local()


def _scratch(shape: tuple[int, int, int]) -> torch.Tensor:
    """Room for int32 planes that this thread fills anew each time."""
    count = shape[0] * shape[1] * shape[2]
    if getattr(_local, "room", torch.empty(0)).numel() < count:
        _local.room = torch.empty(count, dtype=torch.int32)
    room: torch.Tensor = _local.room[:count]
    return room.view(shape)
