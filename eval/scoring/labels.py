"""Labels of any comparable kind -> one number per class."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import DataError

Labels = Sequence[Hashable] | NDArray[Any] | torch.Tensor

_LEGAL = "legal: one number, text or date for each embedding, none of them missing, all of one kind"


def class_codes(labels: Labels) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The labels as an array, and (N,) int64 that are equal where labels are; 0.1 and 0.9 are two classes.

    Args:
        labels: (N,) integers, floats, booleans, texts or dates: array, list, or tensor on any device.

    Raises:
        DataError: not one label each, NaN or None, or texts beside numbers.

    >>> class_codes(["cat", "dog", "cat"])[1].tolist()
    [0, 1, 0]
    """
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()
    if isinstance(labels, np.ma.MaskedArray) and np.ma.getmaskarray(labels).any():
        raise DataError(f"label {int(np.flatnonzero(np.ma.getmaskarray(labels))[0])} is missing (masked); {_LEGAL}")
    if not isinstance(labels, np.ndarray):
        labels = _array(list(labels))
    elif labels.dtype.kind == "O":
        labels = _array(labels.tolist()) if labels.ndim == 1 else labels
    if labels.ndim != 1:
        raise DataError(f"labels have shape {labels.shape}; {_LEGAL}")
    if labels.dtype.kind not in "iufbUSMmO":
        raise DataError(f"labels are of type {labels.dtype}; {_LEGAL}")
    if labels.dtype.kind in "fMm" and np.isnan(labels).any():
        raise DataError(f"label {int(np.flatnonzero(np.isnan(labels))[0])} is missing (NaN); {_LEGAL}")
    try:
        return labels, np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(-1)
    except TypeError as error:  # objects without an order
        raise DataError(f"labels of type {type(labels[0]).__name__} have no order; {_LEGAL}") from error


def _array(values: list[Any]) -> NDArray[Any]:
    """Without NumPy's conversions, by which 1 and "1", or 2^53 and 2^53 + 1 beside a float, become equal."""
    kinds = set()
    for place, value in enumerate(values):
        item = value.item() if isinstance(value, np.generic | torch.Tensor) and np.ndim(value) == 0 else value
        if item is None or item != item:
            raise DataError(f"label {place} is missing ({item}); {_LEGAL}")
        if isinstance(item, list | tuple | dict | set | np.ndarray | torch.Tensor):
            raise DataError(f"label {place} is a {type(item).__name__}; {_LEGAL}")
        values[place] = item
        kinds.add("number" if isinstance(item, bool | int | float) else type(item).__name__)
    if len(kinds) > 1:
        raise DataError(f"labels are of several kinds ({', '.join(sorted(kinds))}); {_LEGAL}")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    same = len({type(value) for value in values}) == 1
    return np.asarray(values) if same and isinstance(values[0], bool | float | str) else array
