"""Pulling from the Hugging Face Hub so that the first failure decides, in seconds and in one line.

The Hub client retries a dead endpoint for about 23 s per file. One short metadata request comes before every
download: it tells a missing repository from a missing network, and it is not retried.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timm_gam.errors import HubError

__all__ = ["RepoType", "check_repository", "download_file"]

RepoType = Literal["model", "dataset"]
_PROBE_SECONDS = 5.0


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
    except GatedRepoError as error:
        raise HubError(f"{what} is gated: ask for access on its page, then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{what} has no revision '{revision}'; name an existing tag, branch or commit") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{what} does not exist on {constants.ENDPOINT}, or is private: check the name, or set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise HubError(f"'{repo_id}' is no Hub id; one reads owner/name") from error
    except Exception as error:  # the HTTP library differs between client versions; every other failure is the network's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"{what} cannot be had: no answer from {constants.ENDPOINT} ({reason}); check the network or HF_ENDPOINT, "
            "or use local files"
        ) from error


def download_file(repo_id: str, filename: str, revision: str | None = None) -> tuple[Path, str]:
    """Download one file of a model repository, or take it from the cache where the Hub cannot be reached.

    Returns:
        The local path and the commit it belongs to.

    Raises:
        HubError: as `check_repository`, or the repository has no such file.
    """
    cached = try_to_load_from_cache(repo_id, filename, revision=revision)
    try:
        check_repository(repo_id, revision)
    except HubError as error:
        if isinstance(cached, str) and not isinstance(error.__cause__, RepositoryNotFoundError):
            return _with_commit(Path(cached))
        raise
    try:
        return _with_commit(Path(hf_hub_download(repo_id, filename, revision=revision)))
    except EntryNotFoundError as error:
        raise HubError(f"model '{repo_id}' has no file '{filename}'; only safetensors weights are read") from error
    except Exception as error:  # as above
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(f"downloading '{filename}' of '{repo_id}' failed: {reason}; try again") from error


def _with_commit(path: Path) -> tuple[Path, str]:
    # Cache layout: models--owner--name/snapshots/COMMIT/file
    parts = path.parts
    return path, parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"
