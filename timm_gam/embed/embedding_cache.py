"""The embedding cache: embeddings kept in safetensors files under the SHA-256 of the image each was made from.

A store belongs to one `Embedder.key`: the hash of the weights, the layer, the preprocessing, the precision and the
versions of the packages that compute. Nothing is found by a path, a name or a time, so no kept embedding can be stale,
and those of one image set, protocol or photo index serve every other. The evaluation's cache and the photo search are
both made of these four calls:

    missing(digests)                    what is to be embedded
    add(digests, vectors, signatures)   kept once this returns, whatever ends the process
    read(digests)                       the vectors, in this order
    signatures(digests)                 likewise, what near-duplicates are found by

Files are only ever written whole:

    KEY-CONTENT.safetensors   a part: "digests" (N, 32) uint8, "signatures" (N, 256) int8, "vectors" (N, D) float32,
                              "sha256" of them (32,) uint8

Every `add` writes a part. `compact` writes one of all that is asked for, in its order, so that reading those again is
mapping that file; a part that holds nothing else goes. Several processes may use a folder at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from timm_gam.core import OutputError, atomic_path
from timm_gam.embed.embedding import EmbeddedBatch
from timm_gam.images import DIGEST_BYTES, SIGNATURE_BYTES, Digests

PART_IMAGES = 4096
PART_SECONDS = 60.0
_FORMAT = 4
_BLOCK_BYTES = 2**26
_Column = Literal["signatures", "vectors"]
_COLUMNS: tuple[_Column, ...] = ("signatures", "vectors")


@dataclass(frozen=True)
class Part:
    """N embeddings in a file.

    Attributes:
        path: Of the file.
        digests: N SHA-256 digests of the images' encoded bytes.
        signatures: (N, 256) int8 `timm_gam.images.signature` of each, mapped likewise.
        vectors: (N, D) float32, mapped from the file: read from disk where and when they are used.
    """

    path: Path
    digests: Digests
    signatures: NDArray[np.int8]
    vectors: NDArray[np.float32]


class FileStore:
    """The embeddings of one key in a folder. A digest that is unknown (b"") is always missing and never added.

    Args:
        folder: Made where it does not exist.
        key: `Embedder.key`.
        verify: Read every part once and leave out what is damaged, rather than trust the header.

    Raises:
        OutputError: the folder cannot be made.

    >>> import tempfile
    >>> store = FileStore(Path(tempfile.mkdtemp()), {"model": "a"})
    >>> digests = Digests.of([b"a" * 32, b"b" * 32])
    >>> store.add(digests[:1], np.ones((1, 3), dtype=np.float32), np.ones((1, 256), dtype=np.int8))
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
        """(N,) whether there is no embedding of each."""
        return self.rows(digests) < 0

    def add(self, digests: Digests, vectors: NDArray[np.float32], signatures: NDArray[np.int8]) -> None:
        """Keep (N, D) float32 embeddings and (N, 256) int8 signatures of N digests, as one part, whole or not at all.

        Of one that is there already, the first is kept.

        Raises:
            OutputError: they cannot be kept; what was there before still is.
        """
        first = np.zeros(len(digests), dtype=np.bool_)
        first[np.unique(digests.values, return_index=True)[1]] = True
        new = np.flatnonzero(first & digests.known & self.missing(digests))
        if len(new):
            self._write(digests.take(new), vectors.shape[1], [signatures[new], vectors[new]])

    def read(self, digests: Digests) -> NDArray[np.float32]:
        """(N, D) float32 embeddings, not to be written to: mapped where one part holds just these in this order.

        Raises:
            LookupError: one of them is missing.
        """
        whole = next((part.vectors for part in self.parts() if part.digests == digests), None)
        return self._gathered("vectors", self._found(digests)) if whole is None else whole

    def signatures(self, digests: Digests) -> NDArray[np.int8]:
        """(N, 256) int8 signatures.

        Raises:
            LookupError: as `read`.
        """
        return self._gathered("signatures", self._found(digests))

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
            rows, dim = self._found(digests), parts[0].vectors.shape[1]
            step = max(1, _BLOCK_BYTES // max(1, 4 * dim))
            blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
            path = self._write(digests, dim, (self._gathered(c, block) for c in _COLUMNS for block in blocks))
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

    def _found(self, digests: Digests) -> NDArray[np.int64]:
        rows = self.rows(digests)
        if len(rows) == 0 or rows.min() < 0:
            raise LookupError(f"{int((rows < 0).sum())} of {len(rows)} embeddings are not in '{self.folder}'")
        return rows

    def _gathered(self, column: _Column, rows: NDArray[np.int64]) -> NDArray[Any]:
        columns = [getattr(part, column) for part in self.parts()]
        starts = np.cumsum([0, *map(len, columns)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        gathered = np.empty((len(rows), columns[0].shape[1]), dtype=columns[0].dtype)
        for number in np.unique(owner).tolist():
            here = owner == number
            gathered[here] = columns[number][rows[here] - starts[number]]
        return gathered

    def _write(self, digests: Digests, dim: int, blocks: Iterable[NDArray[Any]]) -> Path:
        content = hashlib.sha256(digests.table.data).hexdigest()[:16]
        path = self.folder / f"{self._name}-{content}.safetensors"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_header(self._key, len(digests), dim))
            checksum = hashlib.sha256()
            for block in chain([digests.table], blocks):
                data = np.ascontiguousarray(block, dtype="<f4" if block.dtype.kind == "f" else None).data
                file.write(data)
                checksum.update(data)
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
            signatures = np.memmap(path, np.int8, "r", start, (count, SIGNATURE_BYTES))
            vectors = np.memmap(path, "<f4", "r", start + signatures.nbytes, (count, dim))
        except (OSError, SafetensorError, ValueError):
            return None
        part = Part(path, digests, signatures, vectors)
        return part if not self._verify or _checksum(part) == checksum else None


@contextmanager
def buffered(store: FileStore) -> Iterator[Callable[[EmbeddedBatch], None]]:
    """Within: batches are added a few thousand images or a minute at a time, the rest at the end however it comes."""
    waiting: list[EmbeddedBatch] = []
    began = time.monotonic()

    def flush() -> None:
        nonlocal began
        batches, waiting[:] = waiting[:], []
        began = time.monotonic()
        if batches:
            digests = Digests.of(digest for batch in batches for digest in batch.digests)
            vectors = np.concatenate([batch.vectors for batch in batches])
            store.add(digests, vectors, np.concatenate([batch.signatures for batch in batches]))

    def take(batch: EmbeddedBatch) -> None:
        waiting.extend([batch] if len(batch.rows) else [])
        images = sum(len(batch.rows) for batch in waiting)
        if images >= PART_IMAGES or time.monotonic() - began >= PART_SECONDS:
            flush()

    try:
        yield take
    finally:
        flush()


def _checksum(part: Part) -> bytes:
    checksum = hashlib.sha256(part.digests.table.data)
    for column in (part.signatures, part.vectors):
        step = max(1, _BLOCK_BYTES // column[:1].nbytes)
        for start in range(0, len(column), step):
            checksum.update(np.ascontiguousarray(column[start : start + step]).data)
    return checksum.digest()


def _size(count: int, dim: int) -> int:
    return count * (DIGEST_BYTES + SIGNATURE_BYTES + 4 * dim) + DIGEST_BYTES


def _header(key: str, count: int, dim: int) -> bytes:
    """A safetensors header; its offsets depend on the shapes alone, so what is written can come block by block."""
    header: dict[str, Any] = {"__metadata__": {"key": key}}
    end = 0
    for name, dtype, *shape in (
        ("digests", "U8", count, DIGEST_BYTES),
        ("signatures", "I8", count, SIGNATURE_BYTES),
        ("vectors", "F32", count, dim),
        ("sha256", "U8", DIGEST_BYTES),
    ):
        start, end = end, end + math.prod(shape) * (4 if dtype == "F32" else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as safetensors aligns its data
    return len(text).to_bytes(8, "little") + text
