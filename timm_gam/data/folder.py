"""A folder of class folders -> image set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.image_set import ImageSet

__all__ = ["EXTENSIONS", "read_folder"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
_SPLITS = ("train", "val", "validation", "test", "query", "gallery")


def read_folder(path: str | Path) -> ImageSet:
    """Read CLASS/IMAGE files (jpg, jpeg, png, webp; also in subfolders of a class), sorted by path.

    The id of an image is its path below `path`, with forward slashes. Where the only subfolders are two or more of
    train, val, validation, test, query and gallery, they are the splits, and the class folders stand in them.
    Hidden files and folders and other file types are ignored.

    Raises:
        DataError: no such folder, no class folders, a class folder without images, an unreadable folder, or a name
            that is not UTF-8.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"no folder '{root}'; name a folder of class folders of images")
    if not root.is_dir():
        raise DataError(f"'{root}' is a file; name a folder of class folders of images, or a .parquet file")
    try:
        folders = _subfolders(root)
        splits = folders if len(folders) > 1 and set(folders) <= set(_SPLITS) else []
        found = [
            (relative, name, split)
            for split in splits or [""]
            for name in _class_names(root / split)
            for relative in _class_images(root, split, name)
        ]
    except OSError as error:
        raise DataError(f"cannot read folder '{error.filename}': {error.strerror}") from error
    for text in (root.resolve().name, *(relative for relative, _, _ in found)):
        if not text.isascii():
            _refuse_not_utf8(text)
    names = sorted({name for _, name, _ in found})
    index = {name: i for i, name in enumerate(names)}
    return ImageSet(
        name=root.resolve().name,
        ids=tuple(relative for relative, _, _ in found),
        labels=np.array([index[name] for _, name, _ in found], dtype=np.int64),
        class_names=tuple(names),
        reader=_FolderReader.of(root, [relative for relative, _, _ in found]),
        splits=tuple(split for _, _, split in found) if splits else None,
    )


@dataclass(frozen=True)
class _FolderReader:
    """Holds its paths in one buffer: reading a `str` writes its reference count, so that each loader process would
    come to own a copy of the page it lies on."""

    root: Path
    relative: bytes  # of all images, end to end
    ends: NDArray[np.int64]
    parallel: bool = True

    @classmethod
    def of(cls, root: Path, relative: Sequence[str]) -> _FolderReader:
        encoded = [name.encode() for name in relative]
        return cls(root, b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Path]]:
        for index in indices:
            start = self.ends[index - 1] if index else 0
            yield index, self.root / self.relative[start : self.ends[index]].decode()


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class_names(folder: Path) -> list[str]:
    names = _subfolders(folder)
    if not names:
        kind = "images but no class folders (data without labels)" if _has_images(folder) else "no class folders"
        raise DataError(f"'{folder}' holds {kind}; put each class's images into a folder of its name")
    return names


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _class_images(root: Path, split: str, name: str) -> list[str]:
    prefix = f"{split}/{name}" if split else name
    images = sorted(_walk(root / prefix, prefix))
    if not images:
        raise DataError(f"class folder '{root / prefix}' holds no images ({', '.join(EXTENSIONS)}); fill or remove it")
    return images


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_image(entry.name):
                yield f"{prefix}/{entry.name}"
            elif entry.is_dir(follow_symlinks=False):  # a link to a parent would never end
                yield from _walk(folder / entry.name, f"{prefix}/{entry.name}")


def _refuse_not_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {os.fsencode(name)!r} is not UTF-8; rename it") from error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)
