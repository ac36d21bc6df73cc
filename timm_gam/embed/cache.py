"""Embeddings kept on disk, each under what it was made with and the bytes of its image.

The key holds the model and its arguments, the hash of its weights, the embedding layer, the preprocessing, the
precision and the versions of the packages that compute; an embedding is found by the SHA-256 of the bytes that were
decoded for it. Nothing is found by a path, a name or a time, so no kept embedding can be stale, and those of one image
set or protocol serve every other.

    KEY-NUMBERS.safetensors        an entry: the embeddings of one list of images, in its order
    KEY-NUMBERS.part.safetensors   a part: a few thousand embeddings of a pass that is under way or was ended

A part is written every few thousand images or every minute, so a pass that is killed goes on from there. Once an
entry holds what is in a part, the part is removed. Files are written whole or not at all, and checked when read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import OutputError
from timm_gam.embed.embedding import EmbeddedBatch
from timm_gam.embed.vector_file import VectorFile, open_vectors, write_vectors
from timm_gam.images import Digests

__all__ = ["CacheKey", "EmbeddingCache", "Parts"]

CacheKey = dict[str, Any]
_FORMAT = 2
_PART = ".part.safetensors"

PART_IMAGES = 4096
PART_SECONDS = 60.0


class EmbeddingCache:
    """The files of one key in a folder. Several processes may use it at a time."""

    def __init__(self, folder: Path, key: CacheKey) -> None:
        """Use `folder`, making it where it does not exist.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the cache folder '{folder}': {error.strerror}; name another") from error
        self.folder = folder
        self._key = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        self._name = hashlib.sha256(self._key.encode()).hexdigest()[:16]

    def find(self, digests: Digests) -> list[VectorFile]:
        """Intact files that together hold every kept embedding of images with these digests; few rather than many."""
        missing = set(digests)
        files = [file for path in self.folder.glob(f"{self._name}-*") if (file := self._open(path)) is not None]
        files.sort(key=lambda file: (-len(missing.intersection(file.digests)), file.path.name))
        found = []
        for file in files:
            if not missing.isdisjoint(file.digests) and file.is_intact():
                found.append(file)
                missing.difference_update(file.digests)
        return found

    def entry(self, digests: Digests) -> VectorFile | None:
        """The entry of just these images in this order, or None."""
        file = self._open(self._path(digests, ".safetensors"))
        return file if file is not None and file.digests == digests else None

    def write_entry(self, digests: Digests, dim: int, blocks: Iterable[NDArray[np.float32]]) -> None:
        """Write the entry of a list of images.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        write_vectors(self._path(digests, ".safetensors"), self._key, digests, dim, blocks)

    def remove_parts(self, digests: Digests) -> None:
        """Remove the parts that hold nothing but images of an entry that is there now."""
        held = set(digests)
        for path in self.folder.glob(f"{self._name}-*{_PART}"):
            part = self._open(path)
            if part is None or held.issuperset(part.digests):
                with suppress(OSError):  # another process removed it
                    path.unlink()

    @contextmanager
    def parts(self) -> Iterator[Parts]:
        """Within: embeddings that are added are kept; also those since the last part, however it ends."""
        parts = Parts(self)
        try:
            yield parts
        finally:
            parts.flush()

    def write_part(self, digests: Digests, vectors: NDArray[np.float32]) -> VectorFile:
        """Write a part.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        path = self._path(digests, _PART)
        write_vectors(path, self._key, digests, vectors.shape[1], [vectors])
        file = self._open(path)
        if file is None:
            raise OutputError(f"'{path}' is gone or damaged just after it was written; is another run clearing it?")
        return file

    def _open(self, path: Path) -> VectorFile | None:
        return open_vectors(path, self._key)

    def _path(self, digests: Digests, suffix: str) -> Path:
        content = hashlib.sha256(digests.table.data).hexdigest()[:16]
        return self.folder / f"{self._name}-{content}{suffix}"


class Parts:
    """Writes embeddings, as they are made, as parts; each knows the rows it holds.

    Attributes:
        written: (file, rows of the image set) of each part.
    """

    def __init__(self, cache: EmbeddingCache) -> None:
        self.written: list[tuple[VectorFile, NDArray[np.int64]]] = []
        self._cache = cache
        self._begin()

    def keep(self, batch: EmbeddedBatch) -> None:
        """Take what was embedded.

        Raises:
            OutputError: a part cannot be written.
        """
        if len(batch.rows) == 0:
            return
        self._rows.append(batch.rows)
        self._digests.extend(batch.digests)
        self._vectors.append(batch.vectors)
        if len(self._digests) >= PART_IMAGES or time.monotonic() - self._began >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part."""
        rows, digests, vectors = self._rows, self._digests, self._vectors
        self._begin()
        if digests:
            file = self._cache.write_part(Digests.of(digests), np.concatenate(vectors))
            self.written.append((file, np.concatenate(rows)))

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._rows: list[NDArray[np.int64]] = []
        self._digests: list[bytes] = []
        self._vectors: list[NDArray[np.float32]] = []
