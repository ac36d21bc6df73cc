"""Pulling from the Hugging Face Hub so that the first failure decides, in seconds and in one line.

The Hub client retries a dead endpoint for about 23 s per file. One short metadata request comes before every
download: it tells a missing repository from a missing network, and it is not retried. A commit that is in the cache
needs no request at all.

Every file is checked against the digest that names it: the one recorded for a release, and the one the Hub gave
when it was downloaded (the cache keeps it as the file's name). The client itself compares sizes only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from timm_gam.core.errors import HubError, one_line

RepoType = Literal["model", "dataset", "space"]
_PROBE_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(text: str) -> bool:
    """Whether the Hub's client takes a text as the id of a repository.

    >>> is_hub_id("me/photos"), is_hub_id("me/photos--of-me")
    (True, False)
    """
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def check_repository(repo_id: str, revision: str | None = None, repo_type: RepoType = "model") -> None:
    """Ask the Hub once, for at most five seconds, whether a repository can be had.

    Raises:
        HubError: not there, no access, no such revision, offline, or no connection.
    """
    what = f"{'data set' if repo_type == 'dataset' else repo_type} '{repo_id}'"
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{what} was not asked for: HF_HUB_OFFLINE is set; unset it, or fill the cache while online")
    try:
        HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=_PROBE_SECONDS)
    except Exception as error:  # the HTTP library's too, which differs between client versions
        raise HubError(_reason(what, repo_id, revision, error)) from error


def _reason(what: str, repo_id: str, revision: str | None, error: Exception) -> str:
    match error:
        case GatedRepoError():
            return f"{what} is gated: ask for access on its page, then set HF_TOKEN"
        case RevisionNotFoundError():
            return f"{what} has no revision '{revision}'; name an existing tag, branch or commit"
        case RepositoryNotFoundError():
            return f"{what} does not exist on {constants.ENDPOINT}, or is private: check the name, or set HF_TOKEN"
        case HFValidationError():
            return f"'{repo_id}' is no Hub id; one reads owner/name"
        case HfHubHTTPError():
            status = error.response.status_code
            advice = "check HF_TOKEN" if status in (401, 403) else "try again later, or use local files"
            return f"{what} cannot be had: {constants.ENDPOINT} answers {status}; {advice}"
    return (
        f"{what} cannot be had: no answer from {constants.ENDPOINT} ({one_line(error)}); check the network or "
        "HF_ENDPOINT, or use local files"
    )


def download_file(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    *,
    sha256: str | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[Path, str]:
    """Download one file of a model repository, or take it from the cache where the Hub cannot be reached.

    Args:
        repo_id: "owner/name".
        filename: Path in the repository.
        revision: Tag, branch or commit; default the head.
        sha256: 64 hexadecimal digits that the file must have.
        cache_dir: Instead of the client's own cache.

    Returns:
        The local path and the commit it belongs to.

    Raises:
        HubError: as `check_repository`; the repository has no such file; or the file is damaged or another one.
    """
    try:
        cached = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir, revision=revision)
    except HFValidationError as error:
        raise HubError(_reason("", repo_id, revision, error)) from error
    if isinstance(cached, str) and (_COMMIT.fullmatch(revision or "") or not _reachable(repo_id, revision)):
        if _is_intact(Path(cached)):
            return _as_released(repo_id, Path(cached), sha256)
        _remove_cached(Path(cached))
    check_repository(repo_id, revision)
    for _ in range(2):  # a byte may have changed on the way, or on disk since
        path = _download(repo_id, filename, revision, cache_dir)
        if _is_intact(path):
            return _as_released(repo_id, path, sha256)
        _remove_cached(path)
    raise HubError(
        f"'{filename}' of '{repo_id}' came damaged twice: its content is not what {constants.ENDPOINT} says it is; "
        "nothing was kept, try again or use another mirror"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return sha_fileobj(file).hex()


def _reachable(repo_id: str, revision: str | None) -> bool:
    """Whether the Hub answers for a repository; refused access is an error even where a copy is cached."""
    try:
        check_repository(repo_id, revision)
    except HubError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        return False
    return True


def _download(repo_id: str, filename: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir))
    except GatedRepoError as error:
        raise HubError(_reason(f"model '{repo_id}'", repo_id, revision, error)) from error
    except LocalEntryNotFoundError as error:  # it answered the first question, not this one: its cause is the answer
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise HubError(_reason(f"model '{repo_id}'", repo_id, revision, cause)) from error
    except EntryNotFoundError as error:
        raise HubError(f"model '{repo_id}' has no file '{filename}'; only safetensors weights are read") from error
    except Exception as error:  # of the network, the HTTP library or the disk
        raise HubError(f"downloading '{filename}' of '{repo_id}' failed: {one_line(error)}; try again") from error


def _is_intact(path: Path) -> bool:
    """Whether a cached file is what the Hub said it is: the cache names it by its SHA-256 (LFS) or git's blob id."""
    name = _blob(path).name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return file_sha256(path) == name
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return git_hash(path.read_bytes()) == name
    return True  # a mirror's own name, or a cache without links: nothing to compare with


def _blob(path: Path) -> Path:
    """What a cached path links to. It may be a link itself, to a store of files by their Xet hash."""
    return path.parent / path.readlink() if path.is_symlink() else path


def _remove_cached(path: Path) -> None:
    """Take a damaged file out of the cache, so that the next pull downloads it again."""
    for file in (path.resolve(), _blob(path), path):
        file.unlink(missing_ok=True)


def _as_released(repo_id: str, path: Path, sha256: str | None) -> tuple[Path, str]:
    found = _blob(path).name  # of an intact file that is its SHA-256, or a name of another kind
    if sha256 not in (None, found) and (found := file_sha256(path)) != sha256:
        raise HubError(
            f"'{path.name}' of '{repo_id}' is not the released file: SHA-256 {found[:12]}... came, "
            f"{str(sha256)[:12]}... is recorded; do not use it, and tell the publisher"
        )
    # Cache layout: models--owner--name/snapshots/COMMIT/file
    parts = path.parts
    return path, parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"
