"""Writing results so that a file is either whole or not there, and reading back only what was written."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from timm_gam.core.errors import OutputError, TimmGamError
from timm_gam.core.leftovers import temporary_beside
from timm_gam.core.text import redacted

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")


@contextlib.contextmanager
def atomic_path(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    Where `path` is a link, the file it names is written and the link stays. What a killed process left is removed.

    Args:
        path: Of a file, or of a folder that is not there yet, nor need its parent be.
        folder: Which of the two.

    Raises:
        OutputError: the folder cannot be written, or made.
    """
    try:
        if folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            path = path.resolve()
        with temporary_beside(path, folder=folder) as temporary:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o777 if folder else 0o666  # it was private; a result is as readable as any other
            temporary.chmod(mode & ~umask)
            temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_outputs(*outputs: Path | None, inputs: Iterable[str | Path | None] = ()) -> None:
    """Fail now, rather than after an hour of computing, if a file cannot be written, comes twice, or is read too.

    Raises:
        OutputError: an output is a folder, a device or a pipe, or no file can be made beside it; it is another output;
            or it is among `inputs` (names of others are let be).
    """
    read = {Path(path).resolve() for path in inputs if path is not None}
    written: set[Path] = set()
    for path in filter(None, outputs):
        if path.is_dir():
            raise OutputError(f"cannot write '{path}': it is a folder; name a file in it")
        if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
            raise OutputError(f"cannot write '{path}': it is no regular file; name one, or '-' for standard output")
        try:
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
        except OSError as error:
            raise _cannot_write(path, error) from error
        if path.resolve() in read:
            raise OutputError(f"cannot write '{path}': it is what is read; name another file")
        if path.resolve() in written:
            raise OutputError(f"cannot write '{path}' twice; name a file for each output")
        written.add(path.resolve())


def write_text(path: Path, text: str) -> None:
    """Write a text to `path` without secrets (`timm_gam.core.text.redacted`), whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(redacted(text), encoding="utf-8", newline="\n")


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a document to `path` likewise.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[T], error: type[TimmGamError], advice: str) -> T:
    """The value in a JSON file, where it is of a kind that pydantic can check, such as `dict[str, int]` or a dataclass.

    Raises:
        `error`: the file cannot be read, or holds something else; one line that ends with `advice`.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as cause:
        reason = first_fault(cause) if isinstance(cause, ValidationError) else cause.strerror or cause
        raise error(f"cannot read '{path}': {reason}; {advice}") from cause


def first_fault(error: ValidationError) -> str:
    """Where the first thing is that has another shape than it should, and what it should be."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}"


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write '{path}': {error.strerror or error}; name a file in a folder you can write to")
