"""Exact products of blocks of integer vectors, on any device.

Float64 adds up the integers of `integer_vectors` without rounding. Where float64 is slow (consumer GPUs have a 64th of
their float32 rate) 8-bit matrix units do it: every component is replaced by its residues modulo seven numbers below
256 without a common divisor. Seven int8 products give the residues of x.y, which determine it (Chinese remainder
theorem), as it is far smaller than the product of the seven (Ozaki, Uchino, Imamura: "Ozaki Scheme II: A GEMM-oriented
emulation of floating-point matrix multiplication using an integer modular technique", 2025).

No kernel rounds, so all give the same bits: the choice changes how long scoring takes and nothing else.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from timm_gam.search.blocks import in_threads, one_blas_thread, slices

_TILE_ROWS, _TILE_COLUMNS = 512, 2048  # of products that a thread computes at a time
_WHOLE = 32  # rows and components
_MODULI = 255, 254, 253, 251, 247, 241, 239  # whose product is above 2^55, where that of two vectors is below 2^53
_TIMED = 1024  # vectors of the products that are timed
_WORTH_TIMING = 1e11  # multiply-adds, a second or so of a CPU


@dataclass(frozen=True)
class Float64:
    """float64 matrix product: NumPy's on the CPU, 1.7 times as fast as torch's on AMD, and torch's elsewhere."""

    name: ClassVar[str] = "float64"

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

        tiles = slices(0, len(a), min(_TILE_ROWS, max(32, len(a) // (4 * torch.get_num_threads()))))
        with one_blas_thread():
            in_threads(work, tiles)
        if same:
            in_threads(mirror, tiles)


@dataclass(frozen=True)
class Residues:
    """int8 matrix products of the residues by each modulus, of at most `longest` components."""

    name: ClassVar[str] = f"int8 (residues by {len(_MODULI)} moduli)"
    longest: ClassVar[int] = (2**31 - 1) // 127**2  # of which int32 holds every sum

    def bytes_per_vector(self, dim: int) -> int:
        return len(_MODULI) * _ceil(dim)

    def operand(self, integers: Tensor) -> Tensor:
        rows, dim = integers.shape
        # Matrix units take whole tiles: zeros fill the last.
        shape = len(_MODULI), _ceil(rows), _ceil(dim)
        residues = torch.zeros(shape, dtype=torch.int8, device=integers.device)
        for plane, modulus in zip(residues, _MODULI, strict=True):
            plane[:rows, :dim] = integers - modulus * (integers / modulus).round_()  # in [-127, 127]
        return residues

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        whole = math.prod(_MODULI)
        total, wholes = torch.zeros_like(out, dtype=torch.int64), out.zero_()
        for a, b, modulus in zip(left, right, _MODULI, strict=True):
            plane = torch._int_mm(a, b.T)[: out.shape[0], : out.shape[1]]
            inverse = pow(whole // modulus, -1, modulus)
            wholes.add_(plane, alpha=inverse / modulus)
            total.add_(plane, alpha=inverse * (whole // modulus))  # modulo 2^64, beyond what is left in the end
        out.copy_(total.sub_(wholes.round_().long(), alpha=whole))


def _ceil(count: int) -> int:
    return -(-count // _WHOLE) * _WHOLE


Kernel = Float64 | Residues
"""One way to multiply blocks of integer vectors, as `Float64` does; equal kernels are equal objects."""


def fastest_kernel(dim: int, device: torch.device, products: float = np.inf) -> Kernel:
    """The faster for so many dot products of `dim` integers, each timed once in a process.

    Float64 where there are few, and on CPUs: on one with AVX-512 and VNNI, int8 took 1.1 times as long for 2,048
    components and 1.7 times for 512.
    """
    if device.type == "cpu" or products * dim < _WORTH_TIMING or dim > Residues.longest:
        return Float64()
    kernels: list[Kernel] = [Float64(), Residues()]
    return min(kernels, key=lambda kernel: seconds(kernel, dim, device))


@functools.cache
def seconds(kernel: Kernel, dim: int, device: torch.device) -> float:
    """That a block of products takes; infinity where torch or the device has none of the kind, or saturates them."""
    from torch.utils.benchmark import Timer

    values = np.random.default_rng(0).choice([-127.0, 127.0, 2.0**16, -1.0], size=(2, _TIMED, dim))
    values[:, :8] = [[[-127.0], [127.0]] * 4, [[127.0], [127.0]] * 4]  # rows whose sums are as large as they get
    left, right = torch.from_numpy(values).to(device)
    expected, out = left @ right.T, torch.empty(_TIMED, _TIMED, dtype=torch.float64, device=device)
    try:
        operands = kernel.operand(left), kernel.operand(right)
        timer = Timer("kernel.multiply(*operands, out)", globals=locals())
        found = min(timer.timeit(2).mean for _ in range(2))  # each warms up first, and waits for the device
    except (AttributeError, RuntimeError):
        return np.inf
    return found if torch.equal(out, expected) else np.inf
