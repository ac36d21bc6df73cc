"""Loaded `datasets` tables -> image set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm_gam.core import DataError
from timm_gam.data.image_set import ImageSet
from timm_gam.data.table.columns import ColumnNames, Columns, find_columns
from timm_gam.data.table.labels import LabelPart, join_labels
from timm_gam.data.table.rows import RowsReader, library_errors

_ANYWHERE = ("hf://", "/")


@dataclass(frozen=True)
class Part:
    """Rows of one split that share a schema.

    Attributes:
        split: Its name.
        table: `datasets.Dataset` or `IterableDataset`.
    """

    split: str
    table: Any


def image_set_from_splits(
    name: str,
    splits: Mapping[str, Any],
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    *,
    streaming: bool = False,
) -> ImageSet:
    """An image set over loaded `datasets` splits, laid end to end; classes are matched by name.

    Images that the tables name by their path are read wherever they are: the tables are the caller's own.

    Raises:
        DataError: the columns do not fit, or a row has no label or none that is a class.
    """
    parts = [Part(split, table) for split, table in splits.items()]
    asked = ColumnNames(image_column, label_column, id_column)
    return image_set_from_parts(name, parts, asked, streaming=streaming, roots=_ANYWHERE)


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
    """An image set over tables laid end to end.

    Args:
        name: Of the set.
        parts: The tables.
        asked: Columns that the user names.
        streaming: Whether the tables have no rows to seek.
        roots: See `RowsReader`.
        published_splits: All splits of the source.
        left_out: Kind of files that are not read -> how many.

    Raises:
        DataError: the columns do not fit, or a row has no label or none that is a class.
    """
    import datasets

    labels: list[LabelPart] = []
    ids: list[str] = []
    tables, lengths, of_split = [], [], []
    before: Counter[str] = Counter()
    columns = None
    for part in parts:
        with library_errors(name):
            table = part.table
            if table.features is None:  # a stream whose columns are known from its first row on
                table = table._resolve_features()
            if streaming:
                table = table.decode(False)  # before any other step: the library decodes remote images in threads
            features = table.features
        columns = find_columns(name, features, asked)
        values, keys = _values(name, table, columns, streaming=streaming)
        first = before[part.split]
        labels.append(LabelPart(part.split, features[columns.label], values, first))
        ids += [f"{part.split}/{first + row:07d}" for row in range(len(values))] if keys is None else map(str, keys)
        of_split += [part.split] * len(values)
        before[part.split] += len(values)
        lengths.append(len(values))
        image = table.select_columns([columns.image])
        tables.append(image.cast_column(columns.image, datasets.Image(decode=False)))
    if columns is None:
        raise DataError(f"'{name}' holds no splits")
    class_names, numbers = join_labels(name, columns.label, labels)
    reader = RowsReader(name, tuple(tables), tuple(lengths), columns.image, not streaming, roots)
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


def _values(name: str, table: Any, columns: Columns, *, streaming: bool) -> tuple[list[Any], list[Any] | None]:
    """All labels, and all ids where a column holds them, without the images."""
    few = list(dict.fromkeys(c for c in (columns.label, columns.id) if c is not None))
    rows = table.select_columns(few)
    with library_errors(name):
        if not streaming:
            return list(rows[columns.label]), list(rows[columns.id]) if columns.id else None
        labels, ids = [], []
        for row in rows:
            labels.append(row[columns.label])
            ids.append(row[columns.id] if columns.id else None)
    return labels, ids if columns.id else None
