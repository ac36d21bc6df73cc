"""Values of a label column -> classes. Each file's own names decide what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError


@dataclass(frozen=True)
class LabelPart:
    """The label column of some rows that share one schema.

    Attributes:
        split: Its name.
        feature: The column's `datasets` feature; a ClassLabel gives names to numbers.
        values: One a row.
        first: Number of the first row within the split.
    """

    split: str
    feature: Any
    values: Sequence[Any]
    first: int = 0

    def place(self, row: int) -> str:
        """How errors call a row."""
        return f"row {self.first + row} of split '{self.split}'"


def join_labels(name: str, column: str, parts: Sequence[LabelPart]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and the (N,) labels of all parts, end to end.

    Parts that number the same names differently are joined by name.

    Raises:
        DataError: a row without a label, or one that is no class: a list, NaN, a number out of range, or another kind
            of value than in the rows before.
    """
    kinds: set[str] = set()
    texts: list[list[str]] = []
    known: list[str] = []  # names of classes, in order
    for part in parts:
        names = getattr(part.feature, "names", None)
        _check(name, column, part, names)
        kinds.update(map(_kind, part.values) if names is None else ["names"] * bool(part.values))
        if names is None:  # -0.0 is 0.0
            texts.append([str(value + 0.0 if isinstance(value, float) else value) for value in part.values])
        else:
            texts.append([names[int(value)] for value in part.values])
        known += texts[-1] if names is None else names
    if len(kinds) > 1 and kinds != {"names", "text"}:
        raise DataError(
            f"column '{column}' of '{name}' mixes {' and '.join(sorted(kinds))}; classes need one kind of label: "
            "write them all as text"
        )
    any_named = any(hasattr(part.feature, "names") for part in parts)
    classes = tuple(dict.fromkeys(known)) if any_named else tuple(sorted(set(known)))
    index = {text: number for number, text in enumerate(classes)}
    return classes, np.array([index[text] for part in texts for text in part], dtype=np.int64)


def _check(name: str, column: str, part: LabelPart, names: Sequence[str] | None) -> None:
    for row, value in enumerate(part.values):
        if value is None or (_is_number(value) and value == -1) or value == "":
            raise DataError(
                f"data without labels: {part.place(row)} of '{name}' has label {value!r}; name another split "
                "(--split, of training --test-split), or another column with --label-column"
            )
        if not isinstance(value, str) and not _is_number(value):
            raise DataError(
                f"{part.place(row)} of '{name}' has a label of type {type(value).__name__} in column '{column}'; one "
                "class an image is needed: text or a number"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{part.place(row)} of '{name}' has label {value} in column '{column}'; that is no class")
        if names is not None and not (_is_number(value) and value == int(value) and 0 <= value < len(names)):
            raise DataError(
                f"{part.place(row)} of '{name}' has label {str(value)[:40]} in column '{column}', which names "
                f"{len(names)} classes; legal: 0 to {len(names) - 1}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating))


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "truth values"
    if isinstance(value, str):
        return "text"
    return "whole numbers" if isinstance(value, (int, np.integer)) else "decimal numbers"
