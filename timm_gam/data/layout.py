"""How a tree of image folders is laid out: where its class folders are, and which folders are splits.

CLASS/x.jpg               classes; deeper folders belong to their class
SPLIT/CLASS/x.jpg         splits by the names that `datasets` knows, and query and gallery; also a single one
CLASS/SPLIT/x.jpg         the same, the other way round
any/folder/CLASS/x.jpg    folders that only wrap the class or split folders are seen through
"""

from __future__ import annotations

from dataclasses import dataclass, field

from timm_gam.core import DataError
from timm_gam.data.split_names import split_of_folder
from timm_gam.data.walk import Folder


@dataclass
class Layout:
    """Where the images of each class are.

    Attributes:
        base: The folder whose folders are the classes or splits, relative; "" for the top.
        groups: (split or "", class, images) in order; paths are relative to the top.
        outside: Images that belong to no split.
        note: What a reader should know, or "".
    """

    base: str
    groups: list[tuple[str, str, list[str]]] = field(default_factory=list)
    outside: int = 0
    note: str = ""


def find_layout(top: Folder) -> Layout:
    """Find the classes and splits of a tree of images.

    Raises:
        DataError: no class folders, one without images, or a mixture of splits and other folders. The message has no
            subject yet: it goes on after the name of the folder.
    """
    base = _unwrapped(top)
    layout = Layout(base.path)
    if not base.folders:
        kind = "images but no class folders (data without labels)" if base.images else "no class folders"
        raise DataError(f"holds {kind}; put each class's images into a folder of its name, archives unpacked")
    splits = _splits(base)
    if splits:
        for name, split in splits.items():
            if outside := base.folders[name].images:
                path = f"{base.folders[name].path}/{outside[0]}"
                raise DataError(f"holds '{path}' outside of class folders; move it into one")
            for label, folder in base.folders[name].folders.items():
                layout.groups.append((split, label, _images(folder)))
        layout.outside = sum(len(f.images_below()) for name, f in base.folders.items() if name not in splits)
    elif inner := _inner_splits(base):
        layout.groups = inner
    else:
        layout.groups = [("", label, _images(folder)) for label, folder in base.folders.items()]
        layout.note = _recurring(base)
    return layout


def _unwrapped(top: Folder) -> Folder:
    """The first folder from the top with images of its own, or with several folders of images, or with a split."""
    base = top
    while not base.images:
        filled = [(name, folder) for name, folder in base.folders.items() if folder.holds_images]
        if len(filled) != 1 or filled[0][1].images or split_of_folder(filled[0][0]):
            break
        base = filled[0][1]
    return base


def _splits(base: Folder) -> dict[str, str]:
    """Folder name -> split; empty where the folders are classes. A folder with images right in it is a class."""
    filled = {name: folder for name, folder in base.folders.items() if folder.holds_images}
    named = {name: split for name in filled if (split := split_of_folder(name)) is not None}
    deep = {name: split for name, split in named.items() if not filled[name].images}
    if named and not deep and len(named) == len(filled):
        raise DataError(
            f"holds split folders ({', '.join(named)}) of images but no class folders (data without labels); put "
            "each class's images into a folder of its name"
        )
    others = [name for name in filled if name not in deep]
    if deep and others and len(set(deep.values())) < 2:
        raise DataError(
            f"holds the split folder {', '.join(deep)} beside {', '.join(others[:3])}, which are no splits: are these "
            "classes or splits? rename them, or name one folder alone"
        )
    return deep


def _images(folder: Folder) -> list[str]:
    images = folder.images_below()
    if not images:
        raise DataError(f"has a class folder '{folder.path}' that holds no images that are read; fill or remove it")
    return images


def _inner_splits(base: Folder) -> list[tuple[str, str, list[str]]]:
    """Groups where every class folder holds split folders and nothing else; none otherwise."""
    groups = []
    for label, folder in base.folders.items():
        splits = {name: split_of_folder(name) for name in folder.folders}
        if folder.images or not splits or None in splits.values():
            return []
        groups += [(str(split), label, _images(folder.folders[name])) for name, split in splits.items()]
    return groups if len({split for split, _, _ in groups}) > 1 else []


def _recurring(base: Folder) -> str:
    """A note where the folders look like splits under other names: the same folders in each, and no images."""
    folders = list(base.folders.values())
    inner = list(folders[0].folders)
    if len(folders) < 2 or len(inner) < 2 or any(f.images or list(f.folders) != inner for f in folders):
        return ""
    return (
        f"every class folder ({', '.join(list(base.folders)[:3])}) holds the same folders ({', '.join(inner[:3])}): if "
        "those are the classes, name one folder alone, or rename the folders to train and test"
    )
