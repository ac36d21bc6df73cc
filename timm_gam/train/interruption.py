"""Ctrl-C and SIGTERM end a run after the update in progress, so that its state can be saved first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruption", "exit_code", "interruptible"]


class Interrupted(KeyboardInterrupt):
    """The run was asked to end, and its state is saved."""

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
