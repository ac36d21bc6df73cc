"""Temporary files and folders beside a result, the removal of those that a killed process left, and folders in use.

Who makes one holds a lock on it, which the system gives back however the process ends. One that nobody holds is a
leftover. Where there are no such locks (Windows, some network file systems) leftovers stay.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from timm_gam.core.errors import OutputError

_ENDING = ".timm-gam.tmp"
_held: set[int] = set()  # descriptors of folders in use
_swept: set[tuple[int, Path]] = set()  # (process, folder): once is enough, what is left is left by others


@contextlib.contextmanager
def temporary_beside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path`, removed at the end where it still is. Leftovers there are removed first.

    Raises:
        OSError: it cannot be made.
    """
    if (os.getpid(), path.parent) not in _swept:
        _swept.add((os.getpid(), path.parent))
        sweep(path.parent)
    temporary, lock = _made(path, folder)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)
        if lock is not None:
            os.close(lock)


def temporary_folder(name: str) -> AbstractContextManager[Path]:
    """An empty folder where the system has temporary files; those that killed processes left there are removed first.

    Args:
        name: Says in its name what it is for.

    Raises:
        OSError: it cannot be made.
    """
    return temporary_beside(Path(tempfile.gettempdir(), name), folder=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; what another process still writes stays."""
    with contextlib.suppress(OSError):
        for entry in folder.glob(f".*{_ENDING}"):
            lock = _locked(entry)
            if lock is not None:
                with contextlib.suppress(OSError):
                    _remove(entry)
                os.close(lock)


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Within: another process that wants to hold this folder too is refused, where there are locks.

    Raises:
        OutputError: another one holds it.
    """
    try:
        handle = _locked(folder, else_raise=True)
    except BlockingIOError as error:
        raise OutputError(
            f"'{folder}' is in use by another process: wait for its end, or name another folder"
        ) from error
    if handle is None:
        yield
        return
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _let_go() -> None:
    """In a forked process: it may live longer than the one that holds."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _made(path: Path, folder: bool) -> tuple[Path, int | None]:
    while True:
        prefix = f".{path.name}."
        if folder:
            name = tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=_ENDING)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_ENDING)
            os.close(handle)
        temporary = Path(name)
        lock = None
        with contextlib.suppress(OSError):  # another process took it for a leftover: holds it, or has removed it
            lock = _locked(temporary, else_raise=True)
            there = temporary.lstat()
            if lock is None or os.path.samestat(os.fstat(lock), there):
                return temporary, lock
        if lock is not None:
            os.close(lock)


def _locked(path: Path, *, else_raise: bool = False) -> int | None:
    """An open descriptor that holds the lock; None where there are no locks, or where another one does, unless that is
    to raise BlockingIOError."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if else_raise and isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
