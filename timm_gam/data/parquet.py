"""Local parquet files -> image set."""

from __future__ import annotations

import re
from pathlib import Path

from timm_gam.core import DataError
from timm_gam.data.hub_dataset import image_set_from_splits
from timm_gam.data.image_set import ImageSet

__all__ = ["read_parquet"]

_SHARD = re.compile(r"^(?P<split>\w+)-\d{5}-of-\d{5}$")  # train-00000-of-00002.parquet


def read_parquet(
    path: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
) -> ImageSet:
    """Read a parquet file, or all parquet files of a folder, as `datasets` writes them.

    Files named SPLIT-00000-of-00002.parquet belong to that split; all others to "train", as in `datasets`.

    Args:
        path: A .parquet file, or a folder of them.
        image_column: Default: the only column of images.
        label_column: Default: the only ClassLabel column, or one called label.
        id_column: Default: "id" where there is one, else "split/row".

    Raises:
        DataError: no such file, a damaged one, or columns that do not fit.
    """
    import datasets

    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"no parquet file at '{path}'; name a .parquet file or a folder of them")
    by_split: dict[str, list[str]] = {}
    for file in files:
        shard = _SHARD.match(file.stem)
        by_split.setdefault(shard["split"] if shard else "train", []).append(str(file))
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset("parquet", data_files=by_split)
    except Exception as error:  # the library raises many kinds; each means that the files cannot be read
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise DataError(f"cannot read parquet at '{path}': {reason}") from error
    return image_set_from_splits(path.stem, dict(splits), image_column, label_column, id_column, streaming=False)
