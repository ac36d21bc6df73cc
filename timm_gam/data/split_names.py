"""Which split a folder or a file belongs to by its name, as `datasets` decides it.

The patterns are `datasets`' own (`datasets.data_files`): "dev" and "val" are validation, "train-00000-of-00002" and
"my_test" belong to train and test. Case does not matter here, and "query" and "gallery" are splits too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from timm_gam.core import DataError

_RETRIEVAL = ("query", "gallery")  # of retrieval benchmarks; `datasets` does not know them


def split_of_folder(name: str) -> str | None:
    """The split that a folder's name stands for, or None.

    >>> split_of_folder("Train"), split_of_folder("dev"), split_of_folder("cats")
    ('train', 'validation', None)
    """
    if name.lower() in _RETRIEVAL:
        return name.lower()
    return next(iter(_matching(_patterns()[0], f"{name.lower()}/class/image")), None)


def splits_of_name(asked: str) -> set[str]:
    """The names under which a split that was asked for may be published: its own, and those `datasets` takes for it.

    >>> sorted(splits_of_name("val"))
    ['dev', 'val', 'valid', 'validation']
    """
    from datasets.data_files import SPLIT_KEYWORDS

    alike = (set(words) | {str(split)} for split, words in SPLIT_KEYWORDS.items())
    return next((words for words in alike if asked.lower() in words), {asked, asked.lower()})


def splits_of_files(paths: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split -> the files that belong to it, by shard names, or else by folders, or else by file names.

    Args:
        paths: Relative to the data's folder, with forward slashes.

    Returns:
        The files by split, all of them "train" where no name says otherwise, and the files of no split.

    Raises:
        DataError: a name stands for two splits.

    >>> splits_of_files(["train.parquet", "test.parquet"])[0]
    {'train': ['train.parquet'], 'test': ['test.parquet']}
    """
    shards = [_shard_pattern().match(path.rpartition("/")[2]) for path in paths]
    if all(shards):
        return _grouped(zip(paths, ([shard["split"]] for shard in shards if shard), strict=True))
    for patterns in _patterns():
        found = [(path, _matching(patterns, path.lower())) for path in paths]
        if any(splits for _, splits in found):
            return _grouped(found)
    return {"train": list(paths)}, []


def _grouped(found: Iterable[tuple[str, Sequence[str]]]) -> tuple[dict[str, list[str]], list[str]]:
    groups: dict[str, list[str]] = {}
    rest = []
    for path, splits in found:
        if len(splits) > 1:
            raise DataError(f"the name '{path}' stands for the splits {' and '.join(splits)}; rename it after one")
        for split in splits:
            groups.setdefault(split, []).append(path)
        if not splits:
            rest.append(path)
    order = {split: place for place, split in enumerate(("train", "validation", "test"))}
    return dict(sorted(groups.items(), key=lambda group: order.get(group[0], len(order)))), rest


def _matching(patterns: Mapping[str, re.Pattern[str]], path: str) -> list[str]:
    return [split for split, pattern in patterns.items() if pattern.match(path)]


@lru_cache
def _patterns() -> tuple[Mapping[str, re.Pattern[str]], Mapping[str, re.Pattern[str]]]:
    """(of folders, of files) split -> its patterns as one regular expression."""
    from datasets.data_files import DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, DEFAULT_PATTERNS_SPLIT_IN_FILENAME
    from fsspec.utils import glob_translate

    folders, files = (
        {
            str(split): re.compile("|".join(f"(?:{glob_translate(glob)})" for glob in globs))
            for split, globs in of.items()
        }
        for of in (DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, DEFAULT_PATTERNS_SPLIT_IN_FILENAME)
    )
    return folders, files


@lru_cache
def _shard_pattern() -> re.Pattern[str]:
    from datasets.data_files import SPLIT_PATTERN_SHARDED
    from fsspec.utils import glob_translate

    name = SPLIT_PATTERN_SHARDED.rpartition("/")[2]  # the folder data/ may have any name, or be left out
    return re.compile(glob_translate(name.replace("{split}", "SPLIT")).replace("SPLIT", r"(?P<split>\w+(?:\.\w+)*)"))
