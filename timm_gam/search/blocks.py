"""Blocks of a matrix, and threads that share the work on them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController


def slices(start: int, stop: int, step: int) -> list[slice]:
    """Consecutive slices of `step` places that cover start to stop; the last may be shorter."""
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def in_threads(work: Callable[[slice], None], tiles: Iterable[slice]) -> None:
    """Do `work` on every tile, in as many threads as torch uses, each of which computes alone.

    No barriers, and tiles stay in cache.
    """
    tiles = list(tiles)
    if len(tiles) == 1:
        work(tiles[0])
        return
    list(_workers(torch.get_num_threads()).map(work, tiles))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within, the OpenBLAS that NumPy brings computes in the thread that calls it.

    Its own threads wait for work in a busy loop beside those of `in_threads`, and are made anew at every change of
    their number: set it once around many products.
    """
    with _openblas().limit(limits=1):
        yield


@functools.cache
def _openblas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    pool, started = ThreadPoolExecutor(threads), threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    for _ in range(threads):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(threads)  # a thread that sets its own number changes this one's as well
    return pool
