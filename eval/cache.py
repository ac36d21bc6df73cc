"""Embeddings kept on disk under a key made of everything they depend on.

The key holds the model and its arguments, the hash of its weights, the embedding layer, the preprocessing, the
precision, the versions of the packages that compute, and the fingerprint of the data, which covers the bytes of every
image. Nothing in it is a path or a time, so an entry can never be stale: other inputs have another key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eval.decoding import content_digest
from eval.embedding import Embeddings
from eval.errors import OutputError, UnreadableImageError
from eval.files import atomic_path
from eval.images import ImageSet

__all__ = ["EmbeddingCache", "data_fingerprint", "digest_images"]

CacheKey = dict[str, Any]
_FORMAT = 1


def data_fingerprint(images: ImageSet, rows: NDArray[np.int64], digests: Sequence[bytes]) -> str:
    """SHA-256 over the (id, class name, content digest) of each image, sorted by id.

    It depends on neither paths nor the order of files, so a folder and a Hub data set made from it agree.

    Args:
        images: The image set.
        rows: (N,) rows of it.
        digests: N content digests, one per row.

    Returns:
        64 hexadecimal digits.
    """
    lines = sorted(
        (images.ids[row], images.class_names[images.labels[row]], digest.hex())
        for row, digest in zip(rows.tolist(), digests, strict=True)
    )
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def digest_images(images: ImageSet, rows: NDArray[np.int64]) -> tuple[bytes, ...]:
    """Content digest of each image in `rows`, without decoding; a vanished file gets an empty digest."""
    digests = []
    for row, encoded in images.reader.read(rows.tolist()):
        try:
            digests.append(content_digest(encoded, images.ids[row]))
        except UnreadableImageError:
            digests.append(b"")
    return tuple(digests)


class EmbeddingCache:
    """A folder of safetensors files, one per key, each written atomically and checked when read."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, making it where it does not exist.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the cache folder '{folder}': {error.strerror}; name another") from error
        self.folder = folder

    def load(self, key: CacheKey, wanted: NDArray[np.int64]) -> Embeddings | None:
        """The embeddings of the rows `wanted` stored under `key`; None where there are none or the file is damaged."""
        path = self._path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                vectors, places, digests = (file.get_tensor(name) for name in ("vectors", "places", "digests"))
        except (FileNotFoundError, SafetensorError):
            return None
        if metadata.get("key") != _canonical(key) or metadata.get("sha256") != _checksum(vectors, places, digests):
            return None
        return Embeddings(
            vectors=vectors,
            rows=wanted[places],
            digests=tuple(digest.tobytes() for digest in digests),
            unreadable=json.loads(metadata["unreadable"]),
            seconds=0.0,
        )

    def store(self, key: CacheKey, wanted: NDArray[np.int64], embeddings: Embeddings) -> None:
        """Store the embeddings of the rows `wanted` under `key`.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        digests = np.frombuffer(b"".join(embeddings.digests), dtype=np.uint8).reshape(len(embeddings.rows), -1)
        # Places among the wanted rows, not rows: another source of the same images may number its rows otherwise.
        places = np.searchsorted(wanted, embeddings.rows)
        tensors = {"vectors": embeddings.vectors, "places": places, "digests": digests}
        metadata = {
            "key": _canonical(key),
            "sha256": _checksum(embeddings.vectors, places, digests),
            "unreadable": json.dumps(embeddings.unreadable),
        }
        with atomic_path(self._path(key)) as temporary:
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata)

    def _path(self, key: CacheKey) -> Path:
        return self.folder / f"{hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]}.safetensors"


def _canonical(key: CacheKey) -> str:
    return json.dumps({"format": _FORMAT, **key}, sort_keys=True)


def _checksum(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
