"""Loaded `datasets` tables -> image set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from timm_gam.core import DataError
from timm_gam.data.image_set import ImageSet
from timm_gam.data.table.columns import ColumnNames, find_columns
from timm_gam.data.table.labels import LabelPart, join_labels
from timm_gam.data.table.rows import RowsReader, library_errors

Part = tuple[str, Any]
"""The name of a split, and rows of it that share a schema: a `datasets.Dataset` or `IterableDataset`."""


def image_set_from_parts(
    name: str,
    parts: Sequence[Part],
    asked: ColumnNames,
    *,
    streaming: bool,
    roots: tuple[str, ...] = (),
    published_splits: tuple[str, ...] = (),
    left_out: Mapping[str, int] | None = None,
) -> ImageSet:
    """An image set over tables laid end to end; `streaming` ones have no rows to seek. `roots`: see `RowsReader`.

    Raises:
        DataError: the columns do not fit, or a row has no label or none that is a class.
    """
    import datasets

    labels: list[LabelPart] = []
    ids: list[str] = []
    tables, lengths, of_split = [], [], []
    before: Counter[str] = Counter()
    image = label = ""
    for split, table in parts:
        with library_errors(name):
            if table.features is None:  # a stream whose columns are known from its first row on
                table = table._resolve_features()
            if streaming:
                table = table.decode(False)  # before any other step: the library decodes remote images in threads
            features = table.features
        image, label, id_column = find_columns(name, features, asked)
        values, keys = _values(name, table, label, id_column, streaming=streaming)
        first = before[split]
        labels.append(LabelPart(split, features[label], values, first))
        ids += [f"{split}/{first + row:07d}" for row in range(len(values))] if keys is None else map(str, keys)
        of_split += [split] * len(values)
        before[split] += len(values)
        lengths.append(len(values))
        undecoded = table.select_columns([image])
        tables.append(undecoded.cast_column(image, datasets.Image(decode=False)))
    if not tables:
        raise DataError(f"'{name}' holds no splits")
    class_names, numbers = join_labels(name, label, labels)
    reader = RowsReader(name, tuple(tables), tuple(lengths), image, not streaming, roots)
    return ImageSet(
        name,
        tuple(ids),
        numbers,
        class_names,
        reader,
        tuple(of_split),
        published_splits or tuple(dict.fromkeys(of_split)),
        dict(left_out or {}),
    )


def _values(
    name: str, table: Any, label: str, id_column: str | None, *, streaming: bool
) -> tuple[list[Any], list[Any] | None]:
    """All labels, and all ids where a column holds them, without the images."""
    rows = table.select_columns(list(dict.fromkeys([label, id_column or label])))
    with library_errors(name):
        if not streaming:
            return list(rows[label]), list(rows[id_column]) if id_column else None
        both = [(row[label], row[id_column or label]) for row in rows]
    return [value for value, _ in both], [key for _, key in both] if id_column else None
