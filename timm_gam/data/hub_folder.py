"""A Hub repository that is nothing but class folders of images -> image set, by the rules of local folders."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from timm_gam.core import DataError, TimmGamError, counted, one_line, progress_bar, write_json
from timm_gam.data.folder import PathReader, image_set_of_tree
from timm_gam.data.image_set import ImageReader, ImageSet
from timm_gam.data.table.rows import read_address
from timm_gam.data.walk import tree_of_paths

_FILES = "timm-gam-files"  # beside the snapshots of a repository in the cache: what it held, for work offline
_AT_ONCE = 8
_AHEAD = 32


def read_hub_folder(
    name: str, repo_id: str, commit: str, files: Sequence[str], *, streaming: bool, splits: Sequence[str] | None
) -> ImageSet:
    """Read CLASS/IMAGE files among all `files` of a commit as `timm_gam.data.read_folder` reads a folder's.

    Raises:
        DataError: there are no classes to be found, or an image cannot be downloaded.
    """

    def reader(base: str, images: Sequence[str]) -> ImageReader:
        inner = [f"{base}/{image}" if base else image for image in images]
        if streaming:
            return _RemoteReader(name, f"hf://datasets/{repo_id}@{commit}/", tuple(inner))
        root = _download(name, repo_id, commit, inner)
        return PathReader.of(root / base, images)

    top, left_out = tree_of_paths(files)
    return image_set_of_tree(top, left_out, name, f"the data set '{name}'", splits, reader)


def remember_files(repo_id: str, revision: str, commit: str, files: Sequence[str]) -> None:
    """Keep a repository's list of files in the cache; without one, what was pulled could not be told from the whole."""
    path = _files_path(repo_id, revision)
    with suppress(OSError, TimmGamError):  # a cache that cannot be written
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"commit": commit, "files": list(files)})


def remembered_files(repo_id: str, revision: str) -> tuple[str, list[str]] | None:
    """(commit, files) of class folders that were downloaded before, or None."""
    try:
        content = json.loads(_files_path(repo_id, revision).read_text(encoding="utf-8"))
        return str(content["commit"]), [str(file) for file in content["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files_path(repo_id: str, revision: str) -> Path:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo_id.replace('/', '--')}" / _FILES
    return folder / f"{hashlib.sha256(revision.encode()).hexdigest()[:16]}.json"


def _download(name: str, repo_id: str, commit: str, files: Sequence[str]) -> Path:
    """The folder of the cache that holds these files of the commit, several downloaded at a time."""
    from huggingface_hub import hf_hub_download

    def one(file: str) -> str:
        return str(hf_hub_download(repo_id, file, repo_type="dataset", revision=commit))

    with ThreadPoolExecutor(_AT_ONCE) as threads, progress_bar("downloading", "img", len(files)) as advance:
        try:
            paths = list(counted(threads.map(one, files), advance))
        except Exception as error:  # the library's and the HTTP client's, of many kinds
            threads.shutdown(cancel_futures=True)
            raise DataError(f"'{name}' cannot be downloaded: {one_line(error)}") from error
    return Path(paths[-1].removesuffix(files[-1]))


@dataclass(frozen=True)
class _RemoteReader:
    """Reads files at their addresses, a few at a time and ahead of who asks."""

    name: str
    root: str
    files: tuple[str, ...]
    parallel: bool = False

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            asked = ((index, threads.submit(self._content, index)) for index in indices)
            waiting = deque(islice(asked, _AHEAD))
            try:
                while waiting:
                    index, content = waiting.popleft()
                    yield index, content.result()
                    waiting.extend(islice(asked, 1))
            finally:
                threads.shutdown(cancel_futures=True)

    def _content(self, index: int) -> bytes:
        try:
            return read_address(self.root + self.files[index])
        except Exception as error:
            raise DataError(f"'{self.files[index]}' of '{self.name}' cannot be read: {one_line(error)}") from error
