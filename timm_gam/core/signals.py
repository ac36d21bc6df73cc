"""Ctrl-C and SIGTERM end a run such that what it has done so far is kept.

Off the main thread Python takes no signal handlers: there a run goes on until whoever started the thread ends it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to end by a signal, and what it has done is kept."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(signal.Signals(number).name)

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        """A process that raises it passes it on to the one that waits for it."""
        return type(self), (self.signal,)


class OutputClosedError(Interrupted):
    """Who read the output, such as `| head`, has gone: there is nobody left to write for."""

    def __init__(self) -> None:
        self.signal = 13  # SIGPIPE, which not every system has
        KeyboardInterrupt.__init__(self, "SIGPIPE")


def exit_code(error: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM, 141 where the output is closed: 128 and the signal, as shells have it."""
    return 128 + (error.signal if isinstance(error, Interrupted) else signal.SIGINT)


class StopRequest:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Within: `handler` takes these signals; nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def note_signals() -> Iterator[StopRequest]:
    """Within: the first SIGINT or SIGTERM is noted; a second Ctrl-C interrupts at once, as usual."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handle_signals(note, signal.SIGINT, signal.SIGTERM):
        yield request


@contextmanager
def terminable() -> Iterator[None]:
    """Within: SIGTERM raises Interrupted, so that open files are closed and half-written ones removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with handle_signals(end, signal.SIGTERM):
        yield
