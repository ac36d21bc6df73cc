"""The least time that the matrix product of exact scoring can take here: its operations over the measured peak rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from timm_gam.search import Kernel, Residues

__all__ = ["float64_rate", "floor_seconds"]

_VECTORS = 2048


def floor_seconds(kernel: Kernel, products: float, dim: int) -> float:
    """Of so many dot products of `dim` integers by a kernel that `timm_gam.search.exact_products` chose.

    Residues take an int8 multiply-add for each byte of a vector, at the rate of one large int8 matrix product; float64
    one for each component, at its own. Preparing operands, adding up and counting are no part of it.
    """
    if isinstance(kernel, Residues):
        return 2 * products * kernel.bytes_per_vector(dim) / _int8_rate(dim)
    return 2 * products * dim / float64_rate(dim)


def float64_rate(dim: int) -> float:
    """Operations per second of a large float64 matrix product, by the faster of NumPy and torch."""
    a, b = np.random.default_rng(0).normal(size=(2, _VECTORS, dim))
    return max(_rate(lambda: a @ b.T, dim), _rate(lambda: torch.from_numpy(a) @ torch.from_numpy(b).T, dim))


def _int8_rate(dim: int) -> float:
    a, b = torch.randint(-128, 128, (2, _VECTORS, dim), dtype=torch.int8)
    out = torch.empty((_VECTORS, _VECTORS), dtype=torch.int32)
    return _rate(lambda: torch._int_mm(a, b.T, out=out), dim)


def _rate(work: Callable[[], object], dim: int) -> float:
    times = []
    for _ in range(11):  # the first warms up
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 2 * _VECTORS**2 * dim / min(times[1:])
