"""The labelled image set: what every source of images produces and all that the evaluation reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timm_gam.core import DataError

__all__ = ["EncodedImage", "ImageReader", "ImageSet"]

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
    """

    name: str
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    reader: ImageReader
    splits: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError(f"image set '{self.name}' holds no images")
        if len(self.ids) != len(self.labels) or (self.splits is not None and len(self.splits) != len(self.ids)):
            raise DataError(f"image set '{self.name}' needs one label and one split per id")
        if len(set(self.ids)) != len(self.ids):
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"image id '{twice}' occurs twice in '{self.name}'; ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)
