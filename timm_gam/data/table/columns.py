"""Which columns of a table hold the images, their labels and their ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm_gam.core import DataError

NO_ID = "none"
"""As the id column: number the rows, whatever columns there are."""

_BYTES = ("binary", "large_binary")
_TEXT = ("string", "large_string", "null")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "fine_label", "cls")  # the last one in WebDataset


@dataclass(frozen=True)
class ColumnNames:
    """What a user names of a table; None is found as `timm_gam.data.read_parquet` says."""

    image: str | None = None
    label: str | None = None
    id: str | None = None


def find_columns(name: str, features: Any, asked: ColumnNames) -> tuple[str, str, str | None]:
    """Find the image, label and id columns among `datasets.Features`, unless they are named.

    Raises:
        DataError: a named column is not there or holds no images, or none or several fit; all columns are listed.
    """
    import datasets

    columns = list(features)
    listed = f"columns of '{name}': {', '.join(columns)}"
    numbered = asked.id == NO_ID and NO_ID not in columns
    for column in (asked.image, asked.label, None if numbered else asked.id):
        if column is not None and column not in columns:
            raise DataError(f"no column '{column}'; {listed}")
    images = [c for c in columns if isinstance(features[c], datasets.Image)]
    images = images or [c for c in columns if isinstance(features[c], dict) and _holds_bytes(features[c])]
    image = asked.image or (images[0] if len(images) == 1 else None)
    if image is None:
        raise DataError(f"{len(images)} image columns, one is needed: name it with --image-column; {listed}")
    if not (isinstance(features[image], datasets.Image) or _holds_bytes(features[image])):
        raise DataError(f"column '{image}' holds no images but {str(features[image])[:80]}; {listed}")
    labels = [c for c in columns if isinstance(features[c], datasets.ClassLabel)]
    labels = labels or [c for c in _LABEL_NAMES if c in columns]
    label = asked.label or (labels[0] if len(labels) == 1 else None)
    if label is None:
        raise DataError(f"data without labels: no single label column, name it with --label-column; {listed}")
    kind = features[label]
    if not isinstance(kind, datasets.ClassLabel) and not isinstance(kind, datasets.Value):
        several = isinstance(kind, list) or "ist" in type(kind).__name__  # List, and what comes of a Sequence
        raise DataError(
            f"column '{label}' of '{name}' holds {'several labels an image' if several else 'no labels'}; one class an "
            f"image is needed, text or a number: name another column with --label-column; {listed}"
        )
    return image, label, (None if numbered else asked.id or ("id" if "id" in columns else None))


def may_be_label(column: str, feature: Any) -> bool:
    """Whether a column is one of those among which the labels are found."""
    import datasets

    return column in _LABEL_NAMES or isinstance(feature, datasets.ClassLabel)


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds encoded images although its file does not say so, as other writers of parquet leave it."""
    if isinstance(feature, dict):
        types = {name: getattr(inner, "dtype", None) for name, inner in feature.items()}
        return types.keys() == {"bytes", "path"} and types["bytes"] in _BYTES and types["path"] in _TEXT
    return getattr(feature, "dtype", None) in _BYTES
