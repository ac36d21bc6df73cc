"""A folder of class folders -> image set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.formats import ENDINGS
from timm_gam.data.image_set import ImageReader, ImageSet, wanted_splits
from timm_gam.data.layout import find_layout
from timm_gam.data.walk import Folder, walk_images


def read_folder(path: str | Path, splits: Sequence[str] | None = None) -> ImageSet:
    """Read CLASS/IMAGE files (also in subfolders of a class), sorted by path.

    Where the class folders stand in split folders (train, val, test and whatever else `datasets` takes for a split,
    query and gallery), these are the splits. Folders that wrap all of it are seen through. The id of an image is its
    path below the class or split folders, with forward slashes. What is not read is counted in `left_out`: other file
    types, hidden files and folders, those of the system, and links to folders.

    Args:
        path: The folder.
        splits: Names of the splits that are needed; others are not read where one of these is there. Default: all.

    Raises:
        DataError: no such folder, no class folders, a class folder without images, an unreadable folder, or a name
            that is not UTF-8.

    >>> images = read_folder("photos")  # class0/0.jpg and so on
    >>> len(images), images.class_names
    (12, ('class0', 'class1', 'class2'))
    """
    root = Path(path)
    if "\0" in str(path) or not root.exists():
        raise DataError(f"no folder '{root}'; name a folder of class folders of images")
    if not root.is_dir():
        raise DataError(f"'{root}' is a file; name a folder of class folders of images, or a .parquet file")
    try:
        top, left_out = walk_images(root)
    except OSError as error:
        raise DataError(f"cannot read folder '{error.filename}': {error.strerror}") from error
    name = root.resolve().name
    for text in (name, *top.images_below()):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the name {os.fsencode(text)!r} is not UTF-8; rename it") from error
    return image_set_of_tree(
        top, left_out, name, f"'{root}'", splits, lambda base, images: PathReader.of(root / base, images)
    )


def image_set_of_tree(
    top: Folder,
    left_out: Counter[str],
    name: str,
    shown: str,
    splits: Sequence[str] | None,
    reader: Callable[[str, Sequence[str]], ImageReader],
) -> ImageSet:
    """The image set of a tree of class folders, wherever it lies; errors call it `shown`.

    `reader` gives what reads images: (folder that all paths are relative to, paths) -> reader.
    """
    try:
        layout = find_layout(top)
    except DataError as error:
        read = f"read are {', '.join(ENDINGS)}"
        there = "".join(f", {count} {kind}" for kind, count in left_out.most_common(3))
        raise DataError(f"{shown} {error} ({read}{there and '; there is more:' + there[1:]})") from error
    native = tuple(dict.fromkeys(split for split, _, _ in layout.groups if split))
    read_too = wanted_splits(splits, native)
    skip = len(layout.base) + 1 if layout.base else 0
    found = [
        (image[skip:], label, split)
        for split, label, images in layout.groups
        if not split or split in read_too
        for image in images
    ]
    names = sorted({label for _, label, _ in found})
    index = {label: i for i, label in enumerate(names)}
    if layout.outside:
        left_out["images outside of the splits"] = layout.outside
    ids = tuple(relative for relative, _, _ in found)
    return ImageSet(
        name=name,
        ids=ids,
        labels=np.array([index[label] for _, label, _ in found], dtype=np.int64),
        class_names=tuple(names),
        reader=reader(layout.base, ids),
        splits=tuple(split for _, _, split in found) if native else None,
        published_splits=native,
        left_out=dict(sorted(left_out.items())),
        notes=(layout.note,) if layout.note else (),
    )


@dataclass(frozen=True)
class PathReader:
    """Gives the paths of files below a folder.

    Holds them in one buffer: reading a `str` writes its reference count, so that each loader process would
    come to own a copy of the page it lies on."""

    root: Path
    relative: bytes  # of all images, end to end
    ends: NDArray[np.int64]
    parallel: bool = True

    @classmethod
    def of(cls, root: Path, relative: Sequence[str]) -> PathReader:
        encoded = [name.encode() for name in relative]
        return cls(root, b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Path]]:
        for index in indices:
            start = self.ends[index - 1] if index else 0
            yield index, self.root / self.relative[start : self.ends[index]].decode()
