"""Ctrl-C and SIGTERM end a run such that what it has done so far is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruption", "exit_code", "interruptible", "terminable"]


class Interrupted(KeyboardInterrupt):
    """The run was asked to end by a signal, and what it has done is kept."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(signal.Signals(number).name)


def exit_code(error: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM: 128 and the signal, as shells have it."""
    return 128 + (error.signal if isinstance(error, Interrupted) else signal.SIGINT)


class Interruption:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM; a second Ctrl-C interrupts at once, as usual."""
    asked = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Within: SIGTERM raises Interrupted, so that open files are closed and half-written ones removed."""
    asked = Interruption()

    def end(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except Exception as error:
        if asked.signal is None:
            raise
        raise Interrupted(asked.signal) from error  # what the loader processes, which were told too, did to this one
    finally:
        signal.signal(signal.SIGTERM, previous)
