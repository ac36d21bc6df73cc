"""What --data-dir and --dataset name -> image set, whichever kind of source it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timm_gam.core import DataError, hub_namespace
from timm_gam.data.folder import read_folder
from timm_gam.data.image_set import ImageSet
from timm_gam.data.synthetic.image_set import draw_synthetic
from timm_gam.data.table.hub_dataset import read_hub_dataset
from timm_gam.data.table.parquet import is_parquet, read_parquet

SYNTHETIC = "synthetic"
"""The name of the image set drawn by code."""


def default_dataset() -> str:
    """The COREL data set of the namespace."""
    return f"{hub_namespace()}/corel"


def read_images(
    data_dir: str | None,
    dataset: str | None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    config_name: str | None = None,
    image_root: str | Path | None = None,
    streaming: bool = False,
    splits: Sequence[str] | None = None,
) -> ImageSet:
    """Read the image set that the options --data-dir and --dataset name; with neither, the default of the namespace.

    Args:
        data_dir: A folder of class folders, a parquet file or a folder of them.
        dataset: A Hub data set id[@revision], or "synthetic".
        image_column: Of parquet or a Hub data set; found by type where None.
        label_column: Likewise.
        id_column: Likewise; "none" numbers the rows.
        config_name: The configuration of a Hub data set, or of a copy of one, that has several.
        image_root: A folder, besides the data's own, below which images may be files that a local table names.
        streaming: Read a Hub data set without downloading it first.
        splits: Names of the splits that are needed; others are not read where one of these is there. Default: all.

    Raises:
        TimmGamError: both are named, or what is named cannot be read.
    """
    if data_dir is not None and dataset is not None:
        raise DataError("both --data-dir and --dataset came; name one (and --gallery-dir for a separate gallery)")
    columns = {
        "image_column": image_column,
        "label_column": label_column,
        "id_column": id_column,
        "config_name": config_name,
    }
    if data_dir is not None:
        path = Path(data_dir)
        if "\0" not in data_dir and is_parquet(path):
            return read_parquet(path, **columns, image_root=image_root, splits=splits)
        named = [f"--{name.replace('_', '-')}" for name, column in columns.items() if column is not None]
        if named:
            raise DataError(f"{' and '.join(named)} came with the folder '{path}', which has no columns; leave it out")
        return read_folder(path, splits)
    if image_root is not None:
        raise DataError("--image-root came without local parquet files of --data-dir; leave it out")
    if dataset == SYNTHETIC:
        return draw_synthetic()
    name = default_dataset() if dataset is None else dataset
    return read_hub_dataset(name, **columns, streaming=streaming, splits=splits)
