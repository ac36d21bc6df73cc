"""Exact dot products of integer vectors, by the faster of the matrix libraries at hand.

NumPy and torch bring different BLAS libraries, and on one processor or another either is twice as fast. On the
integers of `eval.integer_vectors` neither rounds, so both give the same bits: the choice changes how long scoring
takes and nothing else.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["LIBRARIES", "Multiply", "fastest_multiply"]

Multiply = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(R, D) and (C, D) float64 integers -> (R, C) float64: every row times every row."""

_PROBE = 512  # vectors that are timed


def _numpy(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = a @ b.T  # of one array with itself, NumPy computes one triangle
    return product


def _torch(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()
    return product


LIBRARIES: dict[str, Multiply] = {"numpy": _numpy, "torch": _torch}


@functools.cache
def fastest_multiply() -> Multiply:
    """The faster library on this machine, timed once in some 50 ms."""
    rows = np.rint(np.random.default_rng(0).normal(size=(_PROBE, 1024)) * 2**20)
    return min(LIBRARIES.values(), key=lambda multiply: _seconds(multiply, rows))


def _seconds(multiply: Multiply, rows: NDArray[np.float64]) -> float:
    other = rows.copy()
    times = []
    for _ in range(4):  # the first run warms up
        began = time.perf_counter()
        multiply(rows, other)
        times.append(time.perf_counter() - began)
    return min(times[1:])
