"""Loader processes: they read, decode and augment while the network runs.

Whatever happens to one ends the run in one error, within seconds: an error raised in one arrives as itself, one that is
killed (by the system, when memory runs out) is reported as killed when the next item is asked for, and nobody waits for
one that is blocked in a read. Ctrl-C and SIGTERM, which may reach every process of a job, end the main process alone:
it saves what there is and stops the others.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling

from timm_gam.core import MachineError, handle_signals, one_line

T = TypeVar("T")
_ADVICE = "use fewer --workers or a smaller --batch-size"


def default_workers(device: str | torch.device = "cpu") -> int:
    """Loader processes that suit this machine: few beside a CPU network, more where an accelerator waits.

    On two cores one was the fastest that keeps decoding and computing apart, for small and for large photographs
    (`benchmarks/images/embedding.py`).

    >>> default_workers("cpu") in (1, 2)
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), 2) if torch.device(device).type == "cpu" else min(cores, 16)


@contextmanager
def load_items(
    dataset: Dataset[T], keys: Iterable[Any], *, workers: int, pin_memory: bool = False, advice: str = _ADVICE
) -> Iterator[Iterator[T]]:
    """Within: `dataset[key]` of each key, in order.

    Args:
        dataset: Must pickle. What it gives is a tuple of tensors or has a method `pin_memory` where that is asked for.
        keys: Asked for a few items ahead.
        workers: Loader processes; 0 loads in this process, and nothing overlaps.
        pin_memory: Give items in pinned memory, for a CUDA device.
        advice: What to do after a loader process was killed.

    Raises:
        MachineError: within, a loader process was killed.
    """
    loader: DataLoader[T | _WorkerError] = DataLoader(
        _Reporting(dataset),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        worker_init_fn=_ignore_signals if workers else None,
        pin_memory=pin_memory,
    )
    processes: list[BaseProcess] = []
    with _without_death_signals():
        try:
            asked: list[int] = []  # interrupted here, torch would forget processes, which then nobody ends
            with handle_signals(lambda number, frame: asked.append(number), signal.SIGINT, signal.SIGTERM):
                stream = iter(loader)
            processes = getattr(stream, "_workers", [])
            for number in asked:
                signal.raise_signal(number)
            yield _checked(stream, processes, advice)
        except torch.OutOfMemoryError:  # a RuntimeError, and none of a loader process
            raise
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            # The first is torch's own; the others come where an item outlived who sent it.
            exit_codes = _exit_codes(processes, timeout=0 if isinstance(error, RuntimeError) else 1)
            if "DataLoader worker" not in str(error) and not any(exit_codes):
                raise
            raise _exit_error(exit_codes, advice) from error
        finally:
            for process in processes:  # torch would wait 5 s for each that is blocked in a read
                process.kill()
            for process in processes:
                process.join(5)


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Within: running out of memory, of the machine or of a device, is a MachineError with this advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for this one
            raise
        reason = one_line(error) if str(error) else "no memory left"
        raise MachineError(f"out of memory ({reason}); {advice}") from error


def in_shared_memory(values: Tensor) -> Tensor:
    """In a loader process, moved to shared memory; taken here because torch takes it in a thread that hangs.

    Raises:
        MachineError: there is none left.
    """
    if get_worker_info() is not None:
        try:
            values.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise MachineError(f"shared memory (/dev/shm) ran out; enlarge it, or {_ADVICE}") from error
    return values


@dataclass(frozen=True)
class _WorkerError:
    error: Exception
    traceback: str

    def pin_memory(self) -> _WorkerError:
        return self


class _Reporting(Dataset[Any]):
    """The same items; in a loader process an error is an item too, for torch would change its kind and its text."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except Exception as error:
            if get_worker_info() is None:
                raise
            return _WorkerError(_picklable(error), traceback.format_exc())


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _checked(stream: Iterator[T | _WorkerError], processes: Sequence[BaseProcess], advice: str) -> Iterator[T]:
    while True:
        if any(exit_codes := _exit_codes(processes, timeout=0)):
            raise _exit_error(exit_codes, advice)
        try:
            item = next(stream)
        except StopIteration:
            return
        if isinstance(item, _WorkerError):
            raise item.error from RuntimeError(f"in a loader process:\n{item.traceback}")
        yield item


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _without_death_signals() -> Iterator[None]:
    """Within: the death of a loader process raises nothing by itself; who waits for its item is told, within 5 s.

    torch's handler of SIGCHLD raises wherever the main thread is. Where that is between taking the lock of a queue and
    the block that gives it back, torch waits for that lock for ever when it stops the loader.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    # torch sets its handler once, with the first loader of a process: not within, where it would take effect.
    getattr(signal_handling, "_set_SIGCHLD_handler", lambda: None)()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _exit_codes(processes: Sequence[BaseProcess], timeout: float) -> list[int | None]:
    for process in processes:
        process.join(timeout)
    return [process.exitcode for process in processes]


def _exit_error(exit_codes: Sequence[int | None], advice: str) -> MachineError:
    exit_code = next((code for code in exit_codes if code), 0)  # minus the signal that killed the process
    if exit_code > 0:
        return MachineError(f"a loader process ended with exit code {exit_code}; --workers 0 shows why")
    what = f"a loader process died (signal {-exit_code})" if exit_code else "a loader process died"
    if exit_code and -exit_code == getattr(signal, "SIGBUS", None):
        return MachineError(f"{what}: shared memory (/dev/shm) ran out; enlarge it, or {advice}")
    return MachineError(f"{what}, as happens when memory runs out; {advice}")
