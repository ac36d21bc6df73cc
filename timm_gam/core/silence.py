"""C libraries that print what they think of a file, on file descriptor 2 and past Python."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_kept: int | None = None  # descriptor 2 while it is silenced


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Within: what is written to file descriptor 2 is dropped; several threads may be within at once.

    Python's own stderr writes there too: keep what is done within short, and free of output.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _silence()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore()


def _silence() -> None:
    global _kept
    with contextlib.suppress(OSError):  # there is no descriptor 2, or none is left
        _kept = os.dup(2)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)


def _restore() -> None:
    global _kept
    if _kept is not None:
        os.dup2(_kept, 2)
        os.close(_kept)
        _kept = None


def _after_fork() -> None:
    """A process forked while another thread was within has no such thread."""
    global _lock, _inside
    _lock, _inside = threading.Lock(), 0
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
