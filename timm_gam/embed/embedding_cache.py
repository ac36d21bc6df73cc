"""The embedding cache: a store of embeddings in safetensors files that are only ever written whole.

    KEY-CONTENT.safetensors   a part: "digests" (N, 32) uint8, "vectors" (N, D) float32, "sha256" of both (32,) uint8

Every `add` writes a part. `compact` writes one of all that is asked for, in its order, so that reading those again is
mapping that file; a part that holds nothing else goes. Several processes may use a folder at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from timm_gam.core import OutputError, atomic_path
from timm_gam.images import DIGEST_BYTES, Digests

_FORMAT = 3
_BLOCK_BYTES = 2**26


@dataclass(frozen=True)
class Part:
    """N embeddings in a file.

    Attributes:
        path: Of the file.
        digests: N SHA-256 digests of the images' encoded bytes.
        vectors: (N, D) float32, mapped from the file: read from disk where and when they are used.
    """

    path: Path
    digests: Digests
    vectors: NDArray[np.float32]


class FileStore:
    """The `VectorStore` of one key in a folder.

    Args:
        folder: Made where it does not exist.
        key: `Embedder.key`.
        verify: Read every part once and leave out what is damaged, rather than trust the header.

    Raises:
        OutputError: the folder cannot be made.

    >>> import tempfile
    >>> store = FileStore(Path(tempfile.mkdtemp()), {"model": "a"})
    >>> digests = Digests.of([b"a" * 32, b"b" * 32])
    >>> store.add(digests[:1], np.ones((1, 3), dtype=np.float32))
    >>> store.missing(digests).tolist()
    [False, True]
    """

    def __init__(self, folder: Path, key: dict[str, Any], *, verify: bool = True) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder '{folder}': {error.strerror}; name another") from error
        self.folder = folder
        self._key = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        self._name = hashlib.sha256(self._key.encode()).hexdigest()[:16]
        self._verify = verify
        self._parts: dict[Path, Part | None] = {}
        self._table = (np.empty(0, dtype=f"V{DIGEST_BYTES}"), np.empty(0, dtype=np.int64))

    def parts(self) -> list[Part]:
        """The intact parts there are now, by name."""
        found = sorted(self.folder.glob(f"{self._name}-*.safetensors"))
        if found != list(self._parts):
            self._parts = {path: self._parts.get(path) or self._open(path) for path in found}
            tables = [part.digests.values for part in self._parts.values() if part is not None]
            table = np.concatenate([self._table[0][:0], *tables])
            order = np.argsort(table, kind="stable")
            self._table = table[order], order
        return [part for part in self._parts.values() if part is not None]

    def missing(self, digests: Digests) -> NDArray[np.bool_]:
        """See `VectorStore`."""
        return self.rows(digests) < 0

    def add(self, digests: Digests, vectors: NDArray[np.float32]) -> None:
        """See `VectorStore`: one part, whole or not at all."""
        first = np.zeros(len(digests), dtype=np.bool_)
        first[np.unique(digests.values, return_index=True)[1]] = True
        new = np.flatnonzero(first & digests.known & self.missing(digests))
        if len(new):
            self._write(digests.take(new), vectors.shape[1], [vectors[new]])

    def read(self, digests: Digests) -> NDArray[np.float32]:
        """See `VectorStore`: mapped where one part holds just these in this order, else gathered in memory."""
        parts = self.parts()
        whole = next((part.vectors for part in parts if part.digests == digests), None)
        return np.concatenate(list(self._blocks(digests, len(digests)))) if whole is None else whole

    def compact(self, digests: Digests, *, keep_others: bool = True) -> None:
        """Make one part of these, in this order, and remove those that hold nothing else, or with
        `keep_others=False` all others.

        Raises:
            OutputError: it cannot be written; nothing is removed.
            LookupError: an embedding is missing.
        """
        parts = self.parts()
        path = next((part.path for part in parts if part.digests == digests), None)
        if path is None:
            dim = parts[0].vectors.shape[1] if parts else 0
            path = self._write(digests, dim, self._blocks(digests, max(1, _BLOCK_BYTES // max(1, 4 * dim))))
        held = set(digests)
        for part in parts:
            if part.path != path and (not keep_others or held.issuperset(part.digests)):
                with suppress(OSError):  # another process removed it, or still maps it where that forbids removal
                    part.path.unlink()

    def rows(self, digests: Digests) -> NDArray[np.int64]:
        """(N,) row of each among all parts end to end, of the first part that has it; -1 where none has."""
        self.parts()
        table, order = self._table
        wanted = digests.values
        places = np.searchsorted(table, wanted)
        found = (places < len(table)) & digests.known
        found[found] = table[places[found]] == wanted[found]
        rows = np.full(len(digests), -1, dtype=np.int64)
        rows[found] = order[places[found]]
        return rows

    def _blocks(self, digests: Digests, step: int) -> Iterator[NDArray[np.float32]]:
        parts = self.parts()
        rows = self.rows(digests)
        if len(rows) == 0 or rows.min() < 0:
            raise LookupError(f"{int((rows < 0).sum())} of {len(rows)} embeddings are not in '{self.folder}'")
        starts = np.cumsum([0, *(len(part.digests) for part in parts)])
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            owner = np.searchsorted(starts, some, side="right") - 1
            block = np.empty((len(some), parts[0].vectors.shape[1]), dtype=np.float32)
            for number in np.unique(owner).tolist():
                here = owner == number
                block[here] = parts[number].vectors[some[here] - starts[number]]
            yield block

    def _write(self, digests: Digests, dim: int, blocks: Iterable[NDArray[np.float32]]) -> Path:
        content = hashlib.sha256(digests.table.data).hexdigest()[:16]
        path = self.folder / f"{self._name}-{content}.safetensors"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_header(self._key, len(digests), dim))
            checksum = hashlib.sha256()

            def write(data: Any) -> None:
                file.write(data)
                checksum.update(data)

            write(digests.table.data)
            for block in blocks:
                write(np.ascontiguousarray(block, dtype="<f4").data)
            file.write(checksum.digest())
        self._parts.pop(path, None)  # a damaged one of this name was replaced
        return path

    def _open(self, path: Path) -> Part | None:
        """None where it is gone, damaged, or of another key."""
        try:
            with safe_open(path, framework="numpy") as file:  # checks that the header describes the file to the byte
                key = (file.metadata() or {}).get("key")
                digests = Digests(file.get_tensor("digests"))
                count, dim = file.get_slice("vectors").get_shape()
                checksum = file.get_tensor("sha256").tobytes()
            if key != self._key or path.stat().st_size != len(_header(key, count, dim)) + _size(count, dim):
                return None
            start = len(_header(key, count, dim)) + count * DIGEST_BYTES
            vectors = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(count, dim))
        except (OSError, SafetensorError, ValueError):
            return None
        part = Part(path, digests, vectors)
        return part if not self._verify or _checksum(part) == checksum else None


def _checksum(part: Part) -> bytes:
    checksum = hashlib.sha256(part.digests.table.data)
    step = max(1, _BLOCK_BYTES // (4 * part.vectors.shape[1]))
    for start in range(0, len(part.vectors), step):
        checksum.update(np.ascontiguousarray(part.vectors[start : start + step]).data)
    return checksum.digest()


def _size(count: int, dim: int) -> int:
    return count * (DIGEST_BYTES + 4 * dim) + DIGEST_BYTES


def _header(key: str, count: int, dim: int) -> bytes:
    """A safetensors header; its offsets depend on the shapes alone, so what is written can come block by block."""
    ends = [0, count * DIGEST_BYTES, _size(count, dim) - DIGEST_BYTES, _size(count, dim)]
    tensors = {"digests": ("U8", [count, DIGEST_BYTES]), "vectors": ("F32", [count, dim]), "sha256": ("U8", [32])}
    header: dict[str, Any] = {"__metadata__": {"key": key}}
    for (name, (dtype, shape)), span in zip(tensors.items(), pairwise(ends), strict=True):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as safetensors aligns its data
    return len(text).to_bytes(8, "little") + text
