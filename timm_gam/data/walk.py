"""All images below a folder, and what else lies there, by kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from timm_gam.data.formats import is_image_name

SYSTEM_FOLDERS = {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
"""What file servers and systems put beside people's files, often thumbnails under the images' names."""


@dataclass
class Folder:
    """A folder and what is below it.

    Attributes:
        path: Relative to the top, with forward slashes; "" for the top.
        images: Names of the images right in it, sorted.
        folders: Name -> folder, sorted.
    """

    path: str
    images: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)

    @property
    def holds_images(self) -> bool:
        """Whether there is an image in it or below it."""
        return next(self._images(), None) is not None

    def images_below(self) -> list[str]:
        """Sorted paths, relative to the top, of all images in it and below it."""
        return sorted(self._images())

    def _images(self) -> Iterator[str]:
        prefix = f"{self.path}/" if self.path else ""
        yield from (prefix + name for name in self.images)
        for folder in self.folders.values():
            yield from folder._images()


def walk_images(root: Path) -> tuple[Folder, Counter[str]]:
    """Look at every folder below `root` but hidden ones, those of the system, and links, which could lead in circles.

    Returns:
        The top folder, and kind of what is not read -> how many there are.

    Raises:
        OSError: a folder cannot be read.
    """
    top, left_out = Folder(""), Counter[str]()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        names = []
        with os.scandir(root / folder.path) as entries:
            for entry in entries:
                kind = _kind(entry)
                if kind == "folder":
                    names.append(entry.name)
                elif kind == "image":
                    folder.images.append(entry.name)
                else:
                    left_out[kind] += 1
        folder.images.sort()
        prefix = f"{folder.path}/" if folder.path else ""
        folder.folders = {name: Folder(prefix + name) for name in sorted(names)}
        waiting += folder.folders.values()
    return top, left_out


def tree_of_paths(paths: Iterable[str]) -> tuple[Folder, Counter[str]]:
    """The same for the paths of files somewhere else, with forward slashes.

    >>> top, left_out = tree_of_paths(["cats/1.jpg", "cats/notes.txt", ".gitattributes"])
    >>> top.folders["cats"].images, dict(left_out)
    (['1.jpg'], {'hidden': 1, '.txt': 1})
    """
    top, left_out = Folder(""), Counter[str]()
    unseen: set[str] = set()  # folders that are not looked into, counted once as when they are walked
    for *above, name in sorted(path.split("/") for path in paths):  # so names in each folder come in order
        folder = top
        for part in above:
            kind = kind_of_folder(part)
            inner = f"{folder.path}/{part}" if folder.path else part
            if kind != "folder":
                left_out[kind] += inner not in unseen
                unseen.add(inner)
                break
            folder = folder.folders.setdefault(part, Folder(inner))
        else:
            kind = kind_of_file(name)
            if kind == "image":
                folder.images.append(name)
            else:
                left_out[kind] += 1
    return top, +left_out


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return kind_of_folder(entry.name)
    kind = kind_of_file(entry.name)
    if kind != "hidden" and entry.is_dir():
        return "links to folders"
    if kind == "image" and not entry.is_file():
        return "broken links" if entry.is_symlink() else "no regular files"
    return kind


def kind_of_folder(name: str) -> str:
    """Of a folder by its name: "folder" where images are looked for in it, else what it is left out as.

    >>> kind_of_folder("cats"), kind_of_folder("__MACOSX"), kind_of_folder(".git")
    ('folder', 'system folders', 'hidden')
    """
    if name.startswith("."):
        return "hidden"
    is_system = name.lower() in SYSTEM_FOLDERS or name.startswith("__")  # as `datasets` has it
    return "system folders" if is_system else "folder"


def kind_of_file(name: str) -> str:
    """Of a file by its name: "image", else what it is left out as.

    >>> kind_of_file("1.JPG"), kind_of_file("notes.txt"), kind_of_file(".1.jpg")
    ('image', '.txt', 'hidden')
    """
    if name.startswith("."):
        return "hidden"
    return "image" if is_image_name(name) else PurePosixPath(name).suffix.lower() or "no ending"
