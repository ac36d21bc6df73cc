"""Reading encoded images from the rows of `datasets` tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import yaml

from timm_gam.core import DataError, TimmGamError, one_line
from timm_gam.data.image_set import EncodedImage


@dataclass(frozen=True)
class RowsReader:
    """Reads encoded images from `datasets` tables laid end to end; streams them where they have no rows to seek.

    Attributes:
        name: Of the data, for errors.
        parts: Tables, image column undecoded.
        lengths: Rows of each.
        image: The image column.
        parallel: Whether rows can be sought.
        roots: Folders, or prefixes of addresses, below which an image may be a path. A table is somebody's data: a path
            in it must not read, or publish, any other file of this machine.
    """

    name: str
    parts: tuple[Any, ...]  # datasets.Dataset or IterableDataset
    lengths: tuple[int, ...]
    image: str
    parallel: bool
    roots: tuple[str, ...] = ()

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        wanted = list(indices)
        for part, (start, end) in zip(self.parts, pairwise(accumulate((0, *self.lengths))), strict=True):
            mine = [i - start for i in wanted if start <= i < end]
            if not mine:
                continue
            rows = ((row, part[row]) for row in mine) if self.parallel else _stream(part, set(mine), mine[-1] + 1)
            while True:
                with library_errors(self.name):
                    found = next(rows, None)
                if found is None:
                    break
                yield start + found[0], _encoded(found[1][self.image], self.roots)


@contextmanager
def library_errors(name: str, message: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Within: whatever `datasets` raises is one line; it raises many kinds, and each means that rows cannot be had.

    What the libraries log is left out: it says the same before the one line.
    """
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("datasets", "huggingface_hub"))}
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    except (TimmGamError, MemoryError):
        raise
    except Exception as error:
        reason = message(error) if message else f"'{name}' cannot be read: {cause_line(root_cause(error))}"
        raise DataError(reason) from error
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def loading_reason(error: Exception, name: str, revision: str | None = None) -> str:
    """Why a data set, on the Hub or in a folder, cannot be loaded, and which configurations it has."""
    if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
        import datasets

        with library_errors(name):
            names = ", ".join(datasets.get_dataset_config_names(name, revision=revision))
        if "BuilderConfig" in str(error):
            return f"it has no such configuration; legal as --config-name: {names}"
        return f"it has several configurations; name one with --config-name: {names}"
    cause = root_cause(error)
    return f"its README.md: {' '.join(str(cause).split())}" if isinstance(cause, yaml.YAMLError) else cause_line(cause)


def root_cause(error: Exception) -> Exception:
    """The first of the errors that led to this one: the library's own say little."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def cause_line(cause: Exception) -> str:
    """What a library's error says, and what to do where it does not."""
    reason = one_line(cause)
    if "Invalid string class label" in reason:  # it takes the folder around an archive for a class
        return f"`datasets` finds no classes in archives of images; unpack them and name the folder ({reason})"
    return reason


def _stream(part: Any, rows: set[int], end: int) -> Iterator[tuple[int, Any]]:
    return (found for found in enumerate(islice(part, end)) if found[0] in rows)


def _encoded(value: Any, roots: Sequence[str]) -> EncodedImage:
    """The bytes or path that an undecoded `datasets` image holds; a missing one is empty, hence unreadable."""
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    path = value.get("path")
    if not path:
        return b""
    return _remote(path, roots) if "://" in path else _local(path, roots)


def _local(path: str, roots: Sequence[str]) -> Path:
    """A path below one of the roots; one that is relative lies below the first that has it."""
    if "\0" in path:
        raise DataError("an image's path holds a NUL character, which no file's name can; mend that row")
    folders = [Path(root).resolve() for root in roots if "://" not in root]
    for folder in folders:
        found = (folder / path).resolve()
        if found.is_relative_to(folder) and (found.exists() or folder == folders[-1]):
            return found
    raise DataError(
        f"the data names the file '{path}' outside of its own folder; where you trust it, name that folder with "
        "--image-root"
    )


def _remote(path: str, roots: Sequence[str]) -> bytes:
    """The bytes at an address of the data set's own repository, as `datasets` reads it."""
    *within, outermost = path.split("::")  # a file within an archive: zip://a.jpg::hf://...
    own = any("://" in root and outermost.startswith(root) for root in roots)
    if not own or not all(hop.startswith(("zip://", "tar://")) for hop in within) or "/../" in path:
        raise DataError(f"the data names the address '{path}' outside of its own repository; it is not read")
    with library_errors(path):
        return read_address(path)


def read_address(address: str) -> bytes:
    """The bytes at an address, as `datasets` opens it."""
    from datasets.download.streaming_download_manager import xopen

    with xopen(address, "rb") as file:
        return bytes(file.read())
