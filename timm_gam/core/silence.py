"""C libraries that print what they think of a file, on file descriptor 2 and past Python."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_saved_stderr: int | None = None  # descriptor 2 while it is silenced


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Within: what is written to file descriptor 2 is dropped; several threads may be within at once.

    Python's own stderr writes there too: keep what is done within short, and free of output.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _redirect_stderr()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore_stderr()


def _redirect_stderr() -> None:
    global _saved_stderr
    with contextlib.suppress(OSError):  # there is no descriptor 2, or none is left
        _saved_stderr = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


def _restore_stderr() -> None:
    global _saved_stderr
    if _saved_stderr is not None:
        os.dup2(_saved_stderr, 2)
        os.close(_saved_stderr)
        _saved_stderr = None


def _after_fork() -> None:
    """A process forked while another thread was within has no such thread."""
    global _lock, _inside
    _lock, _inside = threading.Lock(), 0
    _restore_stderr()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
