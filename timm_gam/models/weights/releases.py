"""Released weights: which commit, and which bytes, a repository of the zoo stands for.

`timm_gam/models/releases.json` maps "owner/name" to {"revision": commit, "sha256": digest of model.safetensors}.
`python -m hub.release` writes it. Weights that are not in it are pulled from the head of their repository.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from timm_gam.core import HubError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Release:
    """A commit of a repository (40 hexadecimal digits) and the SHA-256 of its model.safetensors (64)."""

    revision: str
    sha256: str


def releases_file() -> Path:
    """The file of releases: the package's own, or the one that TIMM_GAM_RELEASES names for a zoo of your own."""
    return Path(os.environ.get("TIMM_GAM_RELEASES") or Path(__file__).parents[1] / "releases.json")


def find_release(repo_id: str) -> Release | None:
    """The release of a repository, None where none is recorded.

    Raises:
        HubError: the file of releases is not one.
    """
    return read_releases(releases_file()).get(repo_id)


def read_releases(path: Path) -> dict[str, Release]:
    """All releases recorded in a file; none where there is no such file.

    Raises:
        HubError: it is not a file of releases.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        releases = {str(repo_id): Release(**entry) for repo_id, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HubError(f"'{path}' is no file of releases: {error}; restore it, or unset TIMM_GAM_RELEASES") from error
    for repo_id, release in releases.items():
        if not (_COMMIT.fullmatch(str(release.revision)) and _SHA256.fullmatch(str(release.sha256))):
            raise HubError(f"'{path}' names no commit and SHA-256 for '{repo_id}'; restore it")
    return releases
