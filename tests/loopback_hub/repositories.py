"""Repositories of the loopback Hub: commits over content-addressed files, and tags."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
_LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png")  # the Hub decides by .gitattributes and size
_LFS_SIZE = 10_000_000


@dataclass(frozen=True)
class Entry:
    """One file of a commit: where its bytes are and what git calls it."""

    sha256: str
    size: int
    oid: str  # git's blob id of the file, or of its LFS pointer
    lfs: bool


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    message: str
    files: Mapping[str, Entry]


class Objects:
    """Files by their SHA-256, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def store(self, stream: BinaryIO, length: int) -> Entry:
        """Copy `length` bytes of a stream in; whole or not at all."""
        digest, left = hashlib.sha256(), length
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            while left and (chunk := stream.read(min(left, CHUNK))):
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
        if left:
            Path(file.name).unlink()
            raise ConnectionError(f"{left} of {length} bytes did not come")
        Path(file.name).replace(self.path(digest.hexdigest()))
        return self.entry(digest.hexdigest(), lfs=True)

    def entry(self, sha256: str, *, lfs: bool) -> Entry:
        size = self.path(sha256).stat().st_size
        content = _pointer(sha256, size) if lfs else self.path(sha256).read_bytes()
        return Entry(sha256, size, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), lfs)


@dataclass
class Repository:
    """A history of whole states; the lock makes each commit atomic."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.commit("initial commit", {})

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def find(self, revision: str | None) -> Commit | None:
        if revision in (None, "main", "refs/convert/parquet"):
            return self.head
        wanted = self.tags.get(str(revision), revision)
        return next((commit for commit in self.commits if commit.id == wanted), None)

    def commit(self, message: str, files: Mapping[str, Entry]) -> Commit:
        """Append a state."""
        parent = self.commits[-1].id if self.commits else None
        text = repr((self.id, parent, message, sorted(files.items())))
        self.commits.append(Commit(hashlib.sha1(text.encode()).hexdigest(), parent, message, dict(files)))
        return self.head


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub would keep this file outside git."""
    return path.endswith(_LFS_SUFFIXES) or size > _LFS_SIZE


def read_folder(objects: Objects, folder: Path) -> dict[str, Entry]:
    """Every file of a folder as entries."""
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        with path.open("rb") as file:
            stored = objects.store(file, size)
        entries[name] = objects.entry(stored.sha256, lfs=is_lfs(name, size))
    return entries


def copy_out(objects: Objects, commit: Commit, folder: Path) -> Path:
    """Write a commit's files to a folder."""
    for name, entry in commit.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(objects.path(entry.sha256), folder / name)
    return folder


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
