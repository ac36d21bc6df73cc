"""Images -> preprocessed batches: read, decoded and resized in loader processes while the network runs.

Whatever happens to a loader process ends the run in one error, within seconds: an error raised in one arrives as
itself, one that is killed (by the system, when memory runs out) is reported as killed when the next batch is asked for,
and nobody waits for one that is blocked in a read.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import signal_handling

from timm_gam.core import MachineError, UnreadableImageError
from timm_gam.data import EncodedImage, ImageReader
from timm_gam.images.decoding import Shrink, load_image

__all__ = ["Batch", "default_workers", "ignore_interrupts", "load_batches", "quiet_deaths"]


@dataclass(frozen=True)
class Batch:
    """Some of the images asked for.

    Attributes:
        places: Place of each readable image among the rows asked for.
        digests: SHA-256 of the encoded bytes of each.
        pixels: (b, 3, H, W) as the transform gives them; None where no image of the batch is readable.
        failures: (place, reason) of each image that cannot be read.
    """

    places: list[int]
    digests: list[bytes]
    pixels: Tensor | None
    failures: list[tuple[int, str]]

    def pin_memory(self) -> Batch:
        pixels = None if self.pixels is None else self.pixels.pin_memory()
        return Batch(self.places, self.digests, pixels, self.failures)


def default_workers(device: str | torch.device = "cpu") -> int:
    """Loader processes that suit this machine: few beside a CPU network, more where an accelerator waits.

    On two cores one was the fastest that keeps decoding and computing apart, for small and for large photographs
    (`benchmarks/embedding.py`).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), 2) if torch.device(device).type == "cpu" else min(cores, 16)


@contextmanager
def load_batches(
    reader: ImageReader,
    rows: NDArray[np.int64],
    transform: Callable[[Image.Image], Tensor],
    *,
    batch_size: int,
    workers: int,
    shrink: Shrink | None = None,
    pin_memory: bool = False,
) -> Iterator[Iterator[Batch]]:
    """Within: batches of `batch_size` images each, the last one maybe smaller, in the order of `rows`.

    Args:
        reader: Gives the encoded images.
        rows: (N,) ascending rows to read.
        transform: RGB image -> (3, H, W) of any dtype; must pickle.
        batch_size: Images per batch.
        workers: Loader processes; 0 decodes in this process, and nothing overlaps.
        shrink: See `timm_gam.images.decoding.load_image`.
        pin_memory: Give batches in pinned memory, for a CUDA device.

    Raises:
        MachineError: within, a loader process was killed, or memory ran out.
    """
    loader: DataLoader[Batch | _Raised] = DataLoader(
        _BatchStream(reader, rows, transform, shrink, batch_size),
        batch_size=None,
        num_workers=workers if reader.parallel else min(workers, 1),
        worker_init_fn=ignore_interrupts if workers else None,
        pin_memory=pin_memory,
    )
    processes: list[BaseProcess] = []
    with quiet_deaths():
        try:
            stream = iter(loader)
            processes = getattr(stream, "_workers", [])
            yield _checked(stream, processes)
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            # The first is the loader's own; the others come where a batch outlived who sent it.
            exit_codes = _exit_codes(processes, patience=0 if isinstance(error, RuntimeError) else 1)
            if "DataLoader worker" not in str(error) and not any(exit_codes):
                raise
            raise MachineError(_epitaph(exit_codes)) from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = (str(error).splitlines() or ["no memory left"])[0]
            raise MachineError(f"out of memory ({reason}); use a smaller --batch-size or fewer --workers") from error
        finally:
            _stop(processes)


@contextmanager
def quiet_deaths() -> Iterator[None]:
    """Within: the death of a loader process raises nothing by itself; who waits for its batch is told, within 5 s.

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


def ignore_interrupts(worker: int) -> None:
    """Let Ctrl-C, which reaches every process of the group, end the main one alone: it stops the loader processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Raised:
    error: Exception
    traceback: str

    def pin_memory(self) -> _Raised:
        return self


class _BatchStream(IterableDataset[Batch | _Raised]):
    """Whole preprocessed batches, shared out among loader processes batch by batch.

    It holds no Python object per image: reading one writes its reference count, so each process would come to own a
    copy of the page it lies on.
    """

    def __init__(
        self,
        reader: ImageReader,
        rows: NDArray[np.int64],
        transform: Callable[[Image.Image], Tensor],
        shrink: Shrink | None,
        batch_size: int,
    ) -> None:
        self.reader, self.rows, self.transform, self.shrink = reader, rows, transform, shrink
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch | _Raised]:
        info = get_worker_info()
        if info is None:
            yield from self._batches(0, 1)
            return
        try:
            yield from self._batches(info.id, info.num_workers)
        except Exception as error:
            yield _Raised(_picklable(error), traceback.format_exc())

    def _batches(self, worker: int, workers: int) -> Iterator[Batch]:
        starts = range(worker * self.batch_size, len(self.rows), workers * self.batch_size)
        encoded = self._encoded(starts)
        for start in starts:
            batch = Batch([], [], None, [])
            pixels: list[Tensor] = []
            for place in range(start, min(start + self.batch_size, len(self.rows))):
                try:
                    image, digest = load_image(next(encoded), str(place), self.shrink)
                except UnreadableImageError as error:
                    batch.failures.append((place, error.reason))
                else:
                    pixels.append(self.transform(image))
                    batch.places.append(place)
                    batch.digests.append(digest)
            yield Batch(batch.places, batch.digests, _stacked(pixels) if pixels else None, batch.failures)

    def _encoded(self, starts: Sequence[int]) -> Iterator[EncodedImage]:
        """A stream is read once, from its start; what can seek is asked batch by batch."""
        parallel = self.reader.parallel
        for share in (self.rows[start : start + self.batch_size] for start in starts) if parallel else (self.rows,):
            for _, encoded in self.reader.read(share.tolist()):
                yield encoded


def _stacked(pixels: list[Tensor]) -> Tensor:
    """(b, 3, H, W); in a loader process in shared memory, taken here because torch takes it in a thread that hangs."""
    batch = torch.stack(pixels)
    if get_worker_info() is not None:
        try:
            batch.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise MachineError(_NO_SHARED_MEMORY) from error
    return batch


def _checked(stream: Iterator[Batch | _Raised], processes: Sequence[BaseProcess]) -> Iterator[Batch]:
    while True:
        if any(exit_codes := _exit_codes(processes, patience=0)):
            raise MachineError(_epitaph(exit_codes))
        try:
            batch = next(stream)
        except StopIteration:
            return
        if isinstance(batch, _Raised):
            raise batch.error from RuntimeError(f"in a loader process:\n{batch.traceback}")
        yield batch


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


_ADVICE = "use fewer --workers or a smaller --batch-size"
_NO_SHARED_MEMORY = f"shared memory (/dev/shm) ran out; enlarge it, or {_ADVICE}"


def _exit_codes(processes: Sequence[BaseProcess], patience: float) -> list[int | None]:
    for process in processes:
        process.join(patience)
    return [process.exitcode for process in processes]


def _epitaph(exit_codes: Sequence[int | None]) -> str:
    exit_code = next((code for code in exit_codes if code), 0)  # minus the signal that killed the process
    if exit_code > 0:
        return f"a loader process ended with exit code {exit_code}; --workers 0 shows why"
    what = f"a loader process died (signal {-exit_code})" if exit_code else "a loader process died"
    if exit_code and -exit_code == getattr(signal, "SIGBUS", None):
        return f"{what}: {_NO_SHARED_MEMORY}"
    return f"{what}, as happens when memory runs out; {_ADVICE}"


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End loader processes now: torch waits 5 s for each that is blocked in a read."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(5)
