"""Blocks of a matrix, and threads that share the work on them."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


_limiting = threading.Lock()
_within = 0
_limited = ExitStack()  # gives OpenBLAS its threads back


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
    list(_workers(torch.get_num_threads()).map(_inheriting(work), tiles))


def in_background(work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, Result]]:
    """Each item and what `work` makes of it, in order: other threads do it while the next `ahead` items are made."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, _workers(torch.get_num_threads()).submit(_inheriting(work), item)))
        if len(pending) > ahead:
            done, result = pending.popleft()
            yield done, result.result()
    for done, result in pending:
        yield done, result.result()


def _inheriting(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """`work` in the inference mode of the caller: torch keeps one for each thread, and refuses to write across."""
    return torch.inference_mode()(work) if torch.is_inference_mode_enabled() else work


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within, the OpenBLAS that NumPy brings computes in the thread that calls it.

    Its own threads wait for work in a busy loop beside those of `in_threads`, and are made anew at every change of
    their number: of threads within at once, the first sets it, and the last gives it back.
    """
    global _within
    with _limiting:
        _within += 1
        if _within == 1:
            _limited.enter_context(_openblas().limit(limits=1))
    try:
        yield
    finally:
        with _limiting:
            _within -= 1
            if _within == 0:
                _limited.close()


@functools.cache
def _openblas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda wait: wait(), [threading.Barrier(threads).wait] * threads))  # until every thread has begun
    torch.set_num_threads(threads)  # a thread that sets its own number changes this one's as well
    return pool
