"""A data set on the Hugging Face Hub -> image set, downloaded or streamed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from timm_gam.core import DataError, HubError, check_repository
from timm_gam.data.hub_folder import read_hub_folder, remember_files, remembered_files
from timm_gam.data.image_set import ImageSet, wanted_splits
from timm_gam.data.table.columns import ColumnNames
from timm_gam.data.table.parquet import class_names, configurations, load_files
from timm_gam.data.table.parts import image_set_from_parts
from timm_gam.data.table.rows import library_errors, loading_reason

_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<revision>[^/]+)/(?P<path>.+)")


def read_hub_dataset(
    repo_id: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    config_name: str | None = None,
    streaming: bool = False,
    splits: Sequence[str] | None = None,
) -> ImageSet:
    """Read a Hub data set with the `datasets` library; no code of the repository is run.

    Args:
        repo_id: "owner/name" or "owner/name@revision".
        image_column: Default: the only column of images.
        label_column: Default: the only ClassLabel column, or one called label.
        id_column: Default: "id" where there is one, else "split/row", as also for "none".
        config_name: The configuration, where the data set has several.
        streaming: Read over the network without storing the data set; one loader process reads.
        splits: Names of the splits that are needed; others are not read where one of these is there. Default: all.

    Raises:
        DataError: the data set cannot be had, or its columns do not fit.

    >>> images = read_hub_dataset("me/photographs")
    >>> len(images), images.class_names
    (12, ('class0', 'class1', 'class2'))
    """
    import datasets
    from huggingface_hub import constants

    name, _, revision = repo_id.partition("@")
    columns = any((image_column, label_column, id_column))
    if constants.HF_HUB_OFFLINE:
        if not columns and (pulled := remembered_files(name, revision)) is not None:
            return read_hub_folder(repo_id, name, *pulled, streaming=False, splits=splits)
    else:
        try:
            check_repository(name, revision or None, repo_type="dataset")
        except HubError as error:
            raise DataError(str(error)) from error
    datasets.disable_progress_bars()
    files: dict[str, list[str]] = {}
    declared = None
    with _loading(repo_id):
        if not constants.HF_HUB_OFFLINE:  # offline there is a copy to read, and nothing that names its files
            builder = datasets.load_dataset_builder(name, config_name, revision=revision or None)
            files = {str(split): list(paths) for split, paths in (builder.config.data_files or {}).items()}
            declared = builder.info.features
            if not columns and (whole := _image_folder(name, builder, files)) is not None:
                remember_files(name, revision, *whole)
                return read_hub_folder(repo_id, name, *whole, streaming=streaming, splits=splits)
        needed = {split: files[split] for split in wanted_splits(splits, tuple(files))}
        if not _number_alike(needed, declared, label_column):
            parts = load_files(needed, label_column, streaming=streaming)
        else:
            tables = datasets.load_dataset(name, config_name, revision=revision or None, streaming=streaming)
            files = files or {str(split): [] for split in tables}
            parts = [(split, tables[split]) for split in wanted_splits(splits, tuple(files))]
    of_table = any(path.endswith(".parquet") for paths in files.values() for path in paths)
    return image_set_from_parts(
        repo_id,
        parts,
        ColumnNames(image_column, label_column, id_column),
        streaming=streaming,
        roots=_roots(name, archives=not of_table),
        published_splits=tuple(files),
    )


def _image_folder(name: str, builder: Any, by_split: dict[str, list[str]]) -> tuple[str, list[str]] | None:
    """Commit and files of a repository that holds image files and nothing that says what they are; None of others."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from huggingface_hub import HfApi, hf_hub_download

    found = [_HUB_FILE.fullmatch(address) for addresses in by_split.values() for address in addresses]
    named = [file for file in found if file and Path(file["path"]).suffix.lower() in ImageFolder.EXTENSIONS]
    if not isinstance(builder, ImageFolder) or not named or len(named) < len(found):
        return None  # a table, or images beside a table of them, or in archives
    commit = named[0]["revision"]
    files = HfApi().list_repo_files(name, revision=commit, repo_type="dataset")
    if "README.md" in files:
        readme = hf_hub_download(name, "README.md", repo_type="dataset", revision=commit)
        if configurations(Path(readme)) is not None:
            return None
    return commit, files


def _number_alike(files: dict[str, list[str]], declared: Any, label_column: str | None) -> bool:
    """Whether all parquet files, and what the repository's card declares, give the same numbers to classes."""
    import datasets

    own = [class_names(_local(f), label_column) for paths in files.values() for f in paths if f.endswith(".parquet")]
    labelled = [names for names in own if names]
    if any(names != labelled[0] for names in labelled) or (labelled and len(labelled) != len(own)):
        return False
    return not labelled or all(
        not isinstance(feature := (declared or {}).get(column), datasets.ClassLabel) or feature.names == names
        for column, names in labelled[0].items()
        if isinstance(names, list)
    )


def _local(address: str) -> str:
    """The copy in the cache of a file on the Hub where there is one, else its address."""
    from huggingface_hub import try_to_load_from_cache

    found = _HUB_FILE.fullmatch(address)
    if found is None:
        return address
    cached = try_to_load_from_cache(found["repo"], found["path"], revision=found["revision"], repo_type="dataset")
    return cached if isinstance(cached, str) else address


def _roots(name: str, *, archives: bool) -> tuple[str, ...]:
    """Where the data set's own images may be: its part of the cache, or its address."""
    import datasets
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    unpacked = [str(datasets.config.EXTRACTED_DATASETS_PATH)] if archives else []
    return (*unpacked, f"hf://datasets/{name}@", f"hf://datasets/{name}/", str(cached))


def _loading(repo_id: str) -> AbstractContextManager[None]:
    """Within: whatever the library raises is one line that names the data set."""
    name, _, revision = repo_id.partition("@")
    return library_errors(
        repo_id, lambda error: f"data set '{repo_id}' cannot be loaded: {loading_reason(error, name, revision or None)}"
    )
