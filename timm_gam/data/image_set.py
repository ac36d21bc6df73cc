"""The labelled image set: what every source of images produces and all that the evaluation reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timm_gam.core import DataError
from timm_gam.data.split_names import splits_of_name

EncodedImage = bytes | Path | Image.Image
"""An image before decoding: a file's bytes, a file's path, or pixels drawn by code."""


class ImageReader(Protocol):
    """Gives the encoded images of an image set. Must pickle, so that loader processes can hold one."""

    @property
    def parallel(self) -> bool:
        """Whether several processes may each read their own share (False: one stream, read in order)."""

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        """Yield (index, encoded image) once for each of the ascending `indices`, in that order."""


@dataclass(frozen=True)
class ImageSet:
    """N labelled images, known by id and label before any pixel is read.

    Attributes:
        name: How every output calls this set.
        ids: N unique image ids; they identify a query in its gallery and order the published split.
        labels: (N,) int64, index into `class_names`.
        class_names: C readable class names.
        reader: Gives image `i` of this set in encoded form.
        splits: Name of the split each image was published in, or None where the source has no splits.
        published_splits: Names of all splits of the source, also of those that were not read.
        left_out: What lies beside the images and was not read, by kind -> how many.
        notes: What a reader of any number should know of this set, one line each.

    >>> from pathlib import Path
    >>> from timm_gam.data import PathReader
    >>> reader = PathReader.of(Path("photos"), ["class0/0.jpg", "class1/0.jpg"])
    >>> images = ImageSet("mine", ("a", "b"), np.array([0, 1]), ("cat", "dog"), reader)
    >>> len(images)
    2
    """

    name: str
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    reader: ImageReader
    splits: tuple[str, ...] | None = None
    published_splits: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.splits is not None and not self.published_splits:
            object.__setattr__(self, "published_splits", tuple(sorted(set(self.splits))))
        if not self.ids:
            raise DataError(f"image set '{self.name}' holds no images")
        if len(self.ids) != len(self.labels) or (self.splits is not None and len(self.splits) != len(self.ids)):
            raise DataError(f"image set '{self.name}' needs one label and one split per id")
        if len(set(self.ids)) != len(self.ids):
            repeated = Counter(self.ids).most_common(1)[0][0]
            raise DataError(
                f"image id '{repeated}' occurs twice in '{self.name}'; ids must be unique: name another column with "
                "--id-column, or --id-column none to number the rows"
            )

    def __len__(self) -> int:
        return len(self.ids)


def class_warnings(labels: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """What makes any number over images of these classes worthless, one line each.

    >>> class_warnings(np.zeros(3, np.int64), ("cats", "dogs"))
    ["only one class ('cats'): each image is right for each, so numbers say nothing; name the folder of class folders"]
    """
    found = np.unique(labels)
    if len(found) != 1:
        return []
    return [
        f"only one class ('{class_names[int(found[0])]}'): each image is right for each, so numbers say nothing; "
        "name the folder of class folders"
    ]


def wanted_splits(asked: Sequence[str] | None, published: Sequence[str]) -> tuple[str, ...]:
    """Which of a source's splits to read: those asked for that are there, or all where none of them is."""
    found = [published_name(name, published) for name in asked or ()]
    return tuple(split for split in published if split in found) or tuple(published)


def published_name(asked: str, published: Sequence[str]) -> str | None:
    """The published split that a name means: the one of that name, else the only one that `datasets` takes for it."""
    if asked in published:
        return asked
    alike = [name for name in published if name.lower() in splits_of_name(asked)]
    return alike[0] if len(alike) == 1 else None
