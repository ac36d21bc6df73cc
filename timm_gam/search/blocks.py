"""Blocks of a matrix, and threads that share the work on them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["in_threads", "slices"]


def slices(start: int, stop: int, step: int) -> list[slice]:
    """Consecutive slices of `step` places that cover start to stop; the last may be shorter."""
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def in_threads(work: Callable[[slice], None], tiles: Iterable[slice]) -> None:
    """Do `work` on every tile, in as many threads as torch uses, each of which computes alone.

    No barriers, and tiles stay in cache. The OpenBLAS that NumPy brings is held to one thread a caller meanwhile: its
    own threads wait for work in a busy loop, beside these.
    """
    tiles = list(tiles)
    if len(tiles) == 1:
        work(tiles[0])
        return
    pool, openblas = _workers(torch.get_num_threads())
    with openblas.limit(limits=1):
        list(pool.map(work, tiles))


@functools.cache
def _workers(threads: int) -> tuple[ThreadPoolExecutor, ThreadpoolController]:
    pool, started = ThreadPoolExecutor(threads), threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    for _ in range(threads):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(threads)  # a thread that sets its own number changes this one's as well
    return pool, ThreadpoolController().select(internal_api="openblas")
