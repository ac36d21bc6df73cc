"""Embeddings in one safetensors file, written and read without ever being in memory as a whole.

Tensors: "vectors" (N, D) float32 and "digests" (N, 32) uint8, the SHA-256 of the bytes of the image that each
embedding was made from. Metadata: "key", what made the embeddings, and "sha256" over both tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from timm_gam.core import atomic_path
from timm_gam.images import DIGEST_BYTES, Digests

__all__ = ["VectorFile", "open_vectors", "write_vectors"]

_HASHED = 2**24  # bytes at a time
_UNKNOWN = "0" * 64  # stands in the header until the SHA-256 is known


@dataclass(frozen=True)
class VectorFile:
    """N embeddings in a file.

    Attributes:
        path: Of the file.
        vectors: (N, D) float32, mapped from the file: read from disk where and when they are used.
        digests: N SHA-256 digests of the images' encoded bytes.
        sha256: What the file says its content hashes to.
    """

    path: Path
    vectors: NDArray[np.float32]
    digests: Digests
    sha256: str

    def is_intact(self) -> bool:
        """Whether the content has the hash that was written with it. Reads all of it once."""
        digest = _begin(self.digests, self.vectors.shape[1])
        rows = max(1, _HASHED // self.vectors[:1].nbytes)
        for start in range(0, len(self.vectors), rows):
            digest.update(np.ascontiguousarray(self.vectors[start : start + rows]).data)
        return digest.hexdigest() == self.sha256


def open_vectors(path: Path, key: str) -> VectorFile | None:
    """Map a file's vectors; None where there is no such file, it is damaged, or it was written under another key."""
    try:
        with safe_open(path, framework="numpy") as file:  # checks that the header describes the file to the byte
            metadata = file.metadata() or {}
            digests = file.get_tensor("digests")
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            entry = json.loads(raw.read(size))["vectors"]
        if metadata.get("key") != key or entry["dtype"] != "F32" or digests.shape != (entry["shape"][0], DIGEST_BYTES):
            return None
        start = 8 + size + entry["data_offsets"][0]
        vectors = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=tuple(entry["shape"]))
    except (OSError, SafetensorError, ValueError, LookupError):
        return None
    if vectors.ndim != 2:
        return None
    return VectorFile(path, vectors, Digests(digests), metadata.get("sha256", ""))


def write_vectors(path: Path, key: str, digests: Digests, dim: int, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Write embeddings as they come, whole or not at all.

    Args:
        path: Of the file.
        key: What made them.
        digests: N SHA-256 digests.
        dim: D.
        blocks: (B, D) arrays, N rows together.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_header(key, _UNKNOWN, len(digests), dim))
        digest = _begin(digests, dim)
        for block in blocks:
            data = np.ascontiguousarray(block, dtype="<f4").data
            file.write(data)
            digest.update(data)
        file.write(digests.table.data)
        file.seek(0)
        file.write(_header(key, digest.hexdigest(), len(digests), dim))


def _header(key: str, sha256: str, count: int, dim: int) -> bytes:
    end = 4 * count * dim
    header = {
        "__metadata__": {"key": key, "sha256": sha256},
        "vectors": {"dtype": "F32", "shape": [count, dim], "data_offsets": [0, end]},
        "digests": {"dtype": "U8", "shape": [count, DIGEST_BYTES], "data_offsets": [end, end + DIGEST_BYTES * count]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as safetensors aligns its data
    return len(text).to_bytes(8, "little") + text


def _begin(digests: Digests, dim: int) -> hashlib._Hash:
    digest = hashlib.sha256(f"{len(digests)} x {dim}".encode())
    digest.update(digests.table.data)
    return digest
