"""What Hub data sets and parquet files share: finding the columns, and labels and ids from their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError
from timm_gam.data.image_set import EncodedImage, ImageSet

__all__ = ["Columns", "find_columns", "image_set_from_rows", "rows_reader"]

_LABEL_NAMES = ("label", "labels", "class", "category", "target", "fine_label")


@dataclass(frozen=True)
class Columns:
    """Names of the columns a data set is read through."""

    image: str
    label: str
    id: str | None


def find_columns(
    name: str, features: Any, image_column: str | None, label_column: str | None, id_column: str | None
) -> Columns:
    """Find the image, label and id columns among `datasets.Features`, unless they are named.

    Raises:
        DataError: a named column is not there or holds no images, or none or several fit; all columns are listed.
    """
    import datasets

    columns = list(features)
    listed = f"columns of '{name}': {', '.join(columns)}"
    for asked in (image_column, label_column, id_column):
        if asked is not None and asked not in columns:
            raise DataError(f"no column '{asked}'; {listed}")
    images = [c for c in columns if isinstance(features[c], datasets.Image)]
    image = image_column or (images[0] if len(images) == 1 else None)
    if image is None:
        raise DataError(f"{len(images)} image columns, one is needed: name it with --image-column; {listed}")
    if not (isinstance(features[image], datasets.Image) or _holds_bytes(features[image])):
        raise DataError(f"column '{image}' holds no images but {features[image]}; {listed}")
    labels = [c for c in columns if isinstance(features[c], datasets.ClassLabel)]
    labels = labels or [c for c in _LABEL_NAMES if c in columns]
    label = label_column or (labels[0] if len(labels) == 1 else None)
    if label is None:
        raise DataError(f"data without labels: no single label column, name it with --label-column; {listed}")
    return Columns(image, label, id_column or ("id" if "id" in columns else None))


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds encoded images although its file does not say so, as other writers of parquet leave it."""
    return getattr(feature, "dtype", None) in ("binary", "large_binary") or (
        isinstance(feature, dict) and feature.keys() == {"bytes", "path"}
    )


def image_set_from_rows(
    name: str,
    feature: Any,
    labels: Sequence[Any],
    ids: Sequence[Any] | None,
    splits: Sequence[str],
    reader: RowsReader,
) -> ImageSet:
    """An image set from the values of its label and id columns, split after split.

    Args:
        name: Of the set.
        feature: The label column's `datasets` feature; a ClassLabel gives readable names.
        labels: N integers or strings.
        ids: N unique values, or None for "split/row".
        splits: The split of each row.
        reader: Gives row i's image.

    Raises:
        DataError: a row without a label, or ids that are not unique.
    """
    import datasets

    missing = next((i for i, value in enumerate(labels) if value is None or value == -1 or value == ""), None)
    if missing is not None:
        raise DataError(f"data without labels: row {missing} of '{name}' has label {labels[missing]!r}")
    class_names: Sequence[str]
    numbers: NDArray[np.int64]
    if isinstance(feature, datasets.ClassLabel):
        class_names, numbers = tuple(feature.names), np.array(labels, dtype=np.int64)
    else:
        values, inverse = np.unique(np.array([str(v) for v in labels]), return_inverse=True)
        class_names, numbers = tuple(values.tolist()), inverse.astype(np.int64)
    if ids is None:
        row_of_split: dict[str, int] = {}
        names = []
        for split in splits:
            row = row_of_split.setdefault(split, 0)
            names.append(f"{split}/{row:07d}")
            row_of_split[split] += 1
    else:
        names = [str(value) for value in ids]
    return ImageSet(name, tuple(names), numbers, tuple(class_names), reader, tuple(splits))


@dataclass(frozen=True)
class RowsReader:
    """Reads encoded images from `datasets` splits laid end to end; streams them where they have no rows to seek."""

    parts: tuple[Any, ...]  # datasets.Dataset or IterableDataset, image column undecoded
    lengths: tuple[int, ...]
    image: str
    parallel: bool
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        ends = np.cumsum((0, *self.lengths)).tolist()
        object.__setattr__(self, "starts", tuple(ends[:-1]))

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, EncodedImage]]:
        wanted = list(indices)
        for part, start, length in zip(self.parts, self.starts, self.lengths, strict=True):
            mine = [i - start for i in wanted if start <= i < start + length]
            if not mine:
                continue
            rows = _seek(part, mine) if self.parallel else _stream(part, mine)
            for row, value in rows:
                yield start + row, _encoded(value[self.image])


def _seek(part: Any, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    for row in rows:
        yield row, part[row]


def _stream(part: Any, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    wanted = set(rows)
    last = rows[-1]
    for row, value in enumerate(part):
        if row in wanted:
            yield row, value
        if row == last:
            return


def _encoded(value: Any) -> EncodedImage:
    """The bytes or path that an undecoded `datasets` image holds; a missing one is empty, hence unreadable."""
    if value is None:
        return b""
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    return Path(value["path"])


def rows_reader(parts: Sequence[Any], lengths: Sequence[int], image: str, *, streaming: bool) -> RowsReader:
    """A reader over the image column of `datasets` splits."""
    return RowsReader(tuple(parts), tuple(lengths), image, parallel=not streaming)
