"""Blocks of a matrix, and threads that share the work on them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_workers", "slices"]


def slices(start: int, stop: int, step: int) -> list[slice]:
    """Consecutive slices of `step` places that cover start to stop; the last may be shorter."""
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


@contextmanager
def single_threaded_workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch uses, each working on its own tile alone: no barriers, and tiles stay in cache.

    The same holds for the OpenBLAS that NumPy brings: its own threads wait for work in a busy loop, beside these.
    """
    threads = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    openblas = ThreadpoolController().select(internal_api="openblas")
    with openblas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(start)
        started.wait()
        torch.set_num_threads(threads)  # a thread that sets its own number changes this one's as well
        yield pool
