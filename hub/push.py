"""A local folder -> a Hub repository: compared first, sent in one commit, never over somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from timm_gam.core import (
    ConflictError,
    HubError,
    PublishError,
    RefusedError,
    RepoType,
    UploadError,
    check_repository,
    file_sha256,
    one_line,
)

_HUBS_OWN = ".gitattributes"  # the Hub puts it into every repository
_TEXT_BYTES = 10_000_000  # no record or card is larger


@dataclass(frozen=True)
class Changes:
    """What a push does to each file, by path in the repository.

    Attributes:
        parent: Commit that was compared with; None where there is no repository yet.
    """

    parent: str | None
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __str__(self) -> str:
        kinds = (("add", self.added), ("change", self.changed), ("remove", self.removed), ("keep", self.unchanged))
        return "\n".join(f"{what:<7} {name}" for what, names in kinds for name in names)


@dataclass(frozen=True)
class Pushed:
    """Where a folder's content is on the Hub: the commit, the page, and what had to be changed for it."""

    commit: str
    url: str
    changes: Changes

    def __str__(self) -> str:
        return f"commit  {self.commit}" + ("" if self.changes else " (nothing to change)")


def compare_with_hub(folder: Path, repo_id: str, repo_type: RepoType = "model") -> Changes:
    """Compare a folder with the head of a repository, file by file, without downloading any.

    Raises:
        RefusedError: there is no Hub, or no access.
        UploadError: the Hub fails in between.

    >>> Path("model").mkdir()
    >>> _ = Path("model", "notes.txt").write_text("Of 2026.")
    >>> print(compare_with_hub(Path("model"), "me/model"))
    add     notes.txt
    """
    _require_access(repo_id, repo_type)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    api = HfApi()
    with _hub_errors(repo_id):
        try:
            parent = api.repo_info(repo_id, repo_type=repo_type).sha
        except RepositoryNotFoundError:
            return Changes(None, tuple(names), (), (), ())
        entries = api.list_repo_tree(repo_id, recursive=True, revision=parent, repo_type=repo_type)
        there = {e.path: e for e in entries if isinstance(e, RepoFile) and e.path != _HUBS_OWN}
    same = {name for name in names if name in there and _is_same(folder / name, there[name])}
    return Changes(
        parent=parent,
        added=tuple(name for name in names if name not in there),
        changed=tuple(name for name in names if name in there and name not in same),
        removed=tuple(sorted(set(there) - set(names))),
        unchanged=tuple(name for name in names if name in same),
    )


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    private: bool = False,
    tag: str | None = None,
    message: str,
) -> Pushed:
    """Make the head of a repository equal to a folder, in one commit or none.

    Args:
        folder: Becomes the whole content of the repository.
        repo_id: "owner/name"; made where it does not exist.
        repo_type: "model", "dataset" or "space", which is a Docker one.
        private: Whether a new repository is private.
        tag: Set at the commit; an existing tag stays where it is.
        message: First line of the commit.

    Raises:
        RefusedError: no token, no such namespace, or a public repository that was to be private.
        ConflictError: the head moved meanwhile, or the tag is at other content.
        UploadError: the Hub did not take it; what is there is unchanged.

    >>> Path("model").mkdir()
    >>> _ = Path("model", "notes.txt").write_text("Of 2026.")
    >>> push_folder(Path("model"), "me/model", message="Add notes", tag="v1").changes.added
    ('notes.txt',)
    >>> print(compare_with_hub(Path("model"), "me/model"))
    keep    notes.txt
    """
    token = get_token()
    if token is None:
        raise RefusedError("no token to publish with; set HF_TOKEN to one that may write, or run hf auth login")
    _refuse_secret(folder, token)
    _require_access(repo_id, repo_type)
    api = HfApi()
    with _hub_errors(repo_id):
        api.whoami()
        changes = compare_with_hub(folder, repo_id, repo_type)
        if changes.parent is None:
            sdk = "docker" if repo_type == "space" else None
            api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
            changes = compare_with_hub(folder, repo_id, repo_type)
        elif private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise RefusedError(f"'{repo_id}' is public; make it private in its settings, or leave out --private")
        tagged = None if tag is None else _tags(api, repo_id, repo_type).get(tag)
        if tagged is not None and (changes or tagged != changes.parent):
            raise ConflictError(
                f"'{repo_id}' has the tag '{tag}' at {tagged[:12]}, which is other content; tags never move: name a "
                "new one"
            )
        commit = _commit(api, folder, repo_id, repo_type, message, changes) if changes else str(changes.parent)
        if tag is not None and _tags(api, repo_id, repo_type).get(tag) != commit:
            _set_tag(api, repo_id, repo_type, tag, commit)
    return Pushed(commit, page_url(repo_id, repo_type), changes)


def preview_push(folder: Path, repo_id: str, repo_type: RepoType = "model") -> str:
    """What `push_folder` would change, or why that cannot be said."""
    try:
        return f"{compare_with_hub(folder, repo_id, repo_type)}\ndry run: nothing was sent"
    except PublishError as error:
        return f"dry run: nothing was sent, and not compared with the Hub: {error}"


def page_url(repo_id: str, repo_type: RepoType = "model") -> str:
    """The address of a repository's page."""
    return f"{constants.ENDPOINT}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"


def _require_access(repo_id: str, repo_type: RepoType) -> None:
    """Fail in seconds where there is no Hub; a repository that is not there yet is none of its failures."""
    try:
        check_repository(repo_id, repo_type=repo_type)
    except HubError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise RefusedError(str(error)) from error


def _refuse_secret(folder: Path, token: str) -> None:
    """No text that is about to be published may hold the token."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size <= _TEXT_BYTES and token.encode() in path.read_bytes():
            raise RefusedError(f"'{path.name}' holds your Hub token; take it out before publishing")


def _is_same(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    return file_sha256(path) == entry.lfs.sha256 if entry.lfs else git_hash(path.read_bytes()) == entry.blob_id


def _tags(api: HfApi, repo_id: str, repo_type: RepoType) -> dict[str, str]:
    """Name -> commit."""
    return {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags}


def _set_tag(api: HfApi, repo_id: str, repo_type: RepoType, tag: str, commit: str) -> None:
    try:
        api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        raise ConflictError(
            f"the tag '{tag}' of '{repo_id}' was set elsewhere meanwhile; commit {commit[:12]} is published without it"
        ) from error


def _commit(api: HfApi, folder: Path, repo_id: str, repo_type: RepoType, message: str, changes: Changes) -> str:
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, folder / name) for name in (*changes.added, *changes.changed)
    ]
    operations += [CommitOperationDelete(name) for name in changes.removed]
    try:
        info = api.create_commit(
            repo_id, operations, commit_message=message, repo_type=repo_type, parent_commit=changes.parent
        )
    except HfHubHTTPError as error:
        if error.response.status_code != 412:
            raise
        raise ConflictError(
            f"somebody else committed to '{repo_id}' meanwhile; nothing was overwritten: look at "
            f"{page_url(repo_id, repo_type)}/commits/main, then publish again"
        ) from error
    return str(info.oid)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn the client's errors into ours, one line each. No message of ours holds a token."""
    try:
        yield
    except PublishError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UploadError(
            f"'{repo_id}' is gone from {constants.ENDPOINT}, or no longer yours; look at its page"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            says = f": {error.server_message}" if status == 403 and error.server_message else ""  # as a full storage
            raise RefusedError(
                f"{constants.ENDPOINT} refuses this token ({status}{says}): it needs write access to "
                f"'{repo_id.partition('/')[0]}'{' and room there' if says else ''}; set HF_TOKEN to another"
            ) from error
        raise UploadError(
            f"{constants.ENDPOINT} answers {status} ({error.server_message or one_line(error)}); "
            f"'{repo_id}' is as it was, publish again"
        ) from error
    except Exception as error:  # of the HTTP library, the transfer library or the disk
        reason = one_line(error.__cause__ or error)
        raise UploadError(
            f"sending to '{repo_id}' failed ({reason}); publish again: it compares first and sends only what is missing"
        ) from error
