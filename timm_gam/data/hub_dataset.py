"""A data set on the Hugging Face Hub -> image set, downloaded or streamed."""

from __future__ import annotations

from typing import Any

from timm_gam.core import DataError, HubError, check_repository
from timm_gam.data.columns import find_columns, image_set_from_rows, rows_reader
from timm_gam.data.image_set import ImageSet

__all__ = ["image_set_from_splits", "read_hub_dataset"]


def read_hub_dataset(
    repo_id: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    streaming: bool = False,
) -> ImageSet:
    """Read all splits of a Hub data set with the `datasets` library; no code of the repository is run.

    Args:
        repo_id: "owner/name" or "owner/name@revision".
        image_column: Default: the only column of images.
        label_column: Default: the only ClassLabel column, or one called label.
        id_column: Default: "id" where there is one, else "split/row".
        streaming: Read over the network without storing the data set; one loader process reads.

    Raises:
        DataError: the data set cannot be had, or its columns do not fit.
    """
    import datasets
    from huggingface_hub import constants

    name, _, revision = repo_id.partition("@")
    if not constants.HF_HUB_OFFLINE:
        try:
            check_repository(name, revision or None, repo_type="dataset")
        except HubError as error:
            raise DataError(str(error)) from error
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(name, revision=revision or None, streaming=streaming)
    except Exception as error:  # the library raises many kinds; each means that the data cannot be had
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"data set '{repo_id}' cannot be loaded: {reason}") from error
    return image_set_from_splits(repo_id, dict(splits), image_column, label_column, id_column, streaming=streaming)


def image_set_from_splits(
    name: str,
    splits: dict[str, Any],
    image_column: str | None,
    label_column: str | None,
    id_column: str | None,
    *,
    streaming: bool,
) -> ImageSet:
    """An image set over loaded `datasets` splits, laid end to end.

    Raises:
        DataError: the columns do not fit, or a row has no label.
    """
    import datasets

    first = next(iter(splits.values()))
    features = first.features if first.features is not None else first._resolve_features().features
    columns = find_columns(name, features, image_column, label_column, id_column)
    few = list(dict.fromkeys(c for c in (columns.label, columns.id) if c is not None))
    labels: list[Any] = []
    ids: list[Any] = []
    of_split: list[str] = []
    parts, lengths = [], []
    for split, part in splits.items():
        rows = part.select_columns(few)
        before = len(labels)
        if streaming:
            for row in rows:
                labels.append(row[columns.label])
                ids.append(row[columns.id] if columns.id else None)
        else:
            labels += list(rows[columns.label])
            ids += list(rows[columns.id]) if columns.id else [None] * len(rows)
        of_split += [split] * (len(labels) - before)
        lengths.append(len(labels) - before)
        parts.append(part.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False)))
    reader = rows_reader(parts, lengths, columns.image, streaming=streaming)
    return image_set_from_rows(name, features[columns.label], labels, ids if columns.id else None, of_split, reader)
