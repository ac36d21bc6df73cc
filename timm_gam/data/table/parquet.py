"""Local parquet files -> image set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from timm_gam.core import DataError
from timm_gam.data.formats import is_image_name
from timm_gam.data.image_set import ImageSet, wanted_splits
from timm_gam.data.split_names import splits_of_files
from timm_gam.data.table.columns import ColumnNames, may_be_label
from timm_gam.data.table.parts import Part, image_set_from_parts
from timm_gam.data.table.rows import library_errors, loading_reason


def is_parquet(path: Path) -> bool:
    """Whether a path is a parquet file, or a folder with some: at its top, or below it where it holds no images."""
    if path.suffix == ".parquet" or next(path.glob("*.parquet"), None) is not None:
        return True
    suffixes = (file.suffix for file in _visible_files(path) if file.suffix == ".parquet" or is_image_name(file.name))
    return next(suffixes, "") == ".parquet"


def read_parquet(
    path: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    config_name: str | None = None,
    image_root: str | Path | None = None,
    splits: Sequence[str] | None = None,
) -> ImageSet:
    """Read a parquet file, or all parquet files of a folder, as `datasets` reads them.

    Files belong to splits by the configurations in the folder's README.md, or else by their names and folders
    (`timm_gam.data.split_names`). Hidden files are not read.

    Args:
        path: A .parquet file, or a folder of them, also of a data set's repository.
        image_column: Default: the only column of images.
        label_column: Default: the only ClassLabel column, or one called label.
        id_column: Default: "id" where there is one, else "split/row", as also for "none".
        config_name: The configuration to read, where the README.md names several.
        image_root: A folder, besides the data's own, below which images may be files that the table names.
        splits: Names of the splits that are needed; others are not read where one of these is there. Default: all.

    Raises:
        DataError: no such file, a damaged one, columns that do not fit, or some shards of a folder are missing.

    >>> import datasets
    >>> _ = datasets.load_dataset("imagefolder", data_dir="photos", split="train").to_parquet("photos.parquet")
    >>> images = read_parquet("photos.parquet")
    >>> len(images), images.class_names
    (12, ('class0', 'class1', 'class2'))
    """
    path = Path(path)
    folder, left_out = path if path.is_dir() else path.parent, Counter[str]()
    rest: list[str] = []
    by_split = _configured(path, config_name) if path.is_dir() else None
    if by_split is None:
        there = list(_visible_files(path, left_out)) if path.is_dir() else [path]
        files = sorted(f.relative_to(folder).as_posix() for f in there if f.suffix == ".parquet" or f == path)
        left_out.update(f.suffix.lower() or "no ending" for f in there if f.suffix != ".parquet" and f != path)
        if not files or not all((folder / file).is_file() for file in files):
            raise DataError(f"no parquet file at '{path}'; name a .parquet file or a folder of them")
        relative, rest = splits_of_files(files) if path.is_dir() else ({"train": files}, [])
        by_split = {split: [str(folder / file) for file in files] for split, files in relative.items()}
    if rest:
        left_out["parquet files of no split"] = len(rest)
    published = tuple(by_split)
    needed = wanted_splits(splits, published)
    if path.is_dir():
        _check_whole(path, [file for split in needed for file in by_split[split]])
    with library_errors(str(path)):
        parts = load_files({split: by_split[split] for split in needed}, label_column)
    return image_set_from_parts(
        path.resolve().stem,
        parts,
        ColumnNames(image_column, label_column, id_column),
        streaming=False,
        roots=(*([str(image_root)] if image_root is not None else []), str(folder)),
        published_splits=published,
        left_out=+left_out,
    )


def load_files(by_split: dict[str, list[str]], label_column: str | None, **options: Any) -> list[Part]:
    """Load parquet files, those of a split that number their classes alike together.

    `datasets` takes the names of the first file for all: a number would mean another class in the others. Compared are
    the names of `label_column`, or of all columns of labels.
    """
    import datasets

    datasets.disable_progress_bars()
    names = {file: class_names(file, label_column) for files in by_split.values() for file in files}
    parts = []
    for split, files in by_split.items():
        for _, alike in groupby(files, key=lambda file: repr(names[file])):
            table = datasets.load_dataset("parquet", data_files={split: list(alike)}, split=split, **options)
            parts.append((split, table))
    return parts


def class_names(file: str, label_column: str | None) -> dict[str, Any]:
    """Column -> kind and names of each label column, from a parquet file's footer."""
    import datasets
    import pyarrow.parquet as pq
    from datasets.download.streaming_download_manager import xopen

    with xopen(file, "rb") as opened:
        features = datasets.Features.from_arrow_schema(pq.read_schema(opened))
    return {
        column: feature.names if isinstance(feature, datasets.ClassLabel) else str(feature)
        for column, feature in features.items()
        if column == label_column or (label_column is None and may_be_label(column, feature))
    }


def configurations(readme: Path) -> list[dict[str, Any]] | None:
    """The configurations that the README.md of a data set's repository names, or None where it names none."""
    from huggingface_hub import metadata_load

    try:
        about = metadata_load(readme) if readme.is_file() else None
    except Exception:  # no YAML, or damaged: then it says nothing, as `datasets` has it
        return None
    named = about.get("configs") if isinstance(about, dict) else None
    return named if isinstance(named, list) else None


def _configured(folder: Path, config_name: str | None) -> dict[str, list[str]] | None:
    """Split -> files as the README.md of a data set's repository says, or None where it says nothing."""
    about = configurations(folder / "README.md")
    if about is None:
        if config_name is not None:
            raise DataError(f"--config-name {config_name} came, and '{folder}' has no README.md with configurations")
        return None
    import datasets

    named = "" if config_name is None else f" with --config-name '{config_name}'"
    with library_errors(
        str(folder), lambda error: f"'{folder}' cannot be read{named}: {loading_reason(error, str(folder))}"
    ):
        builder = datasets.load_dataset_builder(str(folder), config_name)
    files: dict[str, list[str]] = {str(s): list(f) for s, f in (builder.config.data_files or {}).items()}
    return files


def _check_whole(folder: Path, files: Iterable[str]) -> None:
    """Refuse what a download left that ended early: `datasets` would read the shards that are there without a word."""
    there: dict[tuple[str, int], set[int]] = {}
    for shard in filter(None, (re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\b.*", file) for file in files)):
        there.setdefault((shard[1], int(shard[3])), set()).add(int(shard[2]))
    for (name, count), numbers in there.items():
        if missing := sorted(set(range(count)) - numbers):
            first = f"{Path(name).name}-{missing[0]:05}-of-{count:05}"
            raise DataError(
                f"'{folder}' lacks {len(missing)} of the {count} files of '{Path(name).name}' ({first}, ...); finish "
                "the download, or name one .parquet file to read it alone"
            )


def _visible_files(folder: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        hidden = [name for name in (*folders, *files) if name.startswith((".", "__"))]
        if left_out is not None:
            left_out["hidden"] += len(hidden)
        folders[:] = sorted(name for name in folders if name not in hidden)
        yield from (Path(here, name) for name in sorted(files) if name not in hidden)
