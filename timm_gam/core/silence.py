"""C libraries that print what they think of a file, on file descriptor 2 and past Python."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_lock = threading.Lock()
_inside = 0
_restored = contextlib.ExitStack()  # gives descriptor 2 back


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
                _restored.close()


def _redirect_stderr() -> None:
    with contextlib.suppress(OSError):  # there is no descriptor 2, or none is left
        saved = os.dup(2)
        _restored.callback(os.close, saved)
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 2)
        _restored.callback(os.dup2, saved, 2)


def _after_fork() -> None:
    """A process forked while another thread was within has no such thread."""
    global _lock, _inside
    _lock, _inside = threading.Lock(), 0
    _restored.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
