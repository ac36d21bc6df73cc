"""`python -m hub.dataset`: a folder of class folders of photographs -> a Hub data set that the evaluation loads.

This module parses, prints and exits; `publish_dataset` is the function to call from Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.arguments import add_repository_arguments, add_tag_argument, hub_id, publishing_command
from timm_gam.core import (
    CommandParser,
    ProgressBar,
    RefusedError,
    TimmGamError,
    UploadError,
    no_progress,
    temporary_folder,
)
from timm_gam.images import DecodeLimits, add_decoding_arguments, add_near_argument

if TYPE_CHECKING:
    from hub.photos.audit import Audit
    from hub.push import Pushed

_EPILOG = """\
examples
  look first: write the shards and the card to a folder and report duplicates, sending nothing:
    python -m hub.dataset photos --repo me/corel --dry-run --out corel
  publish for yourself and your group:
    python -m hub.dataset photos --repo me/corel --private --revision v1.0

Publish only photographs that you may. The published train/test rule makes the splits where the folder has none.
exit codes: 0 published (or nothing to do), 2 refused or failed (one line says why), 130 interrupted
"""


def publish_dataset(
    folder: Path,
    repo_id: str,
    *,
    license: str = "unknown",
    tag: str | None = None,
    private: bool = False,
    near: float | None = None,
    skip_unreadable: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
    limits: DecodeLimits | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: ProgressBar = no_progress,
) -> tuple[Audit, Pushed | None]:
    """Audit photographs, build parquet shards, publish them in one commit and read them back.

    Args:
        folder: CLASS/IMAGE files, or SPLIT/CLASS/IMAGE.
        repo_id: "owner/name".
        license: Hub identifier; "unknown", the default, and the card says that none was given.
        tag: Set at the published commit.
        private: Whether a new repository is private.
        near: How much alike near duplicates are at least; default `timm_gam.images.NEAR`.
        skip_unreadable: Leave out files that cannot be decoded, instead of refusing.
        dry_run: Build and compare, send nothing.
        limits: What one image may take to decode; default `DecodeLimits()`.
        out: Folder for the repository; default a temporary one.
        log: Called with each line of progress.
        progress: Makes a bar for the images that are read.

    Returns:
        The audit, and where the data set is; None for a dry run.

    Raises:
        DataError: the folder holds no labelled images.
        RefusedError: a file cannot be read, or as `hub.push.push_folder`.
        UploadError: the Hub did not take it, or gave back something else.

    >>> audit, pushed = publish_dataset(Path("photos"), "me/photos", license="cc0-1.0", dry_run=True)  # CLASS/IMAGE.jpg
    >>> len(audit.rows), audit.unreadable
    (12, {})
    """
    from hub.photos.audit import audit_images
    from hub.photos.repository import write_dataset_repository
    from hub.push import preview_push, push_folder
    from timm_gam.data import read_folder
    from timm_gam.images import NEAR

    with progress("reading", "img", None) as on_progress:
        audit = audit_images(read_folder(folder), NEAR if near is None else near, on_progress, limits or DecodeLimits())
    log(_findings(audit))
    if audit.unreadable and not skip_unreadable:
        name, reason = next(iter(audit.unreadable.items()))
        raise RefusedError(
            f"{len(audit.unreadable)} files cannot be read, the first is '{name}' ({reason}); repair or remove them, "
            "or leave them out with --skip-unreadable"
        )
    with temporary_folder("dataset") as temporary:
        built = out or temporary
        write_dataset_repository(built, audit, repo_id, license)
        if dry_run:
            log(preview_push(built, repo_id, "dataset"))
            return audit, None
        message = f"Publish {len(audit.rows)} images"
        pushed = push_folder(built, repo_id, repo_type="dataset", private=private, tag=tag, message=message)
    log(f"{pushed.changes}\n{pushed}")
    _verify(audit, f"{repo_id}@{pushed.commit}")
    log(f"proved  read back by streaming, fingerprint {audit.fingerprint[:12]}\n{pushed.url}")
    return audit, pushed


def _verify(audit: Audit, dataset: str) -> None:
    """Stream the data set back and compare its fingerprint with the folder's."""
    import numpy as np

    from timm_gam.data import read_hub_dataset
    from timm_gam.images import data_fingerprint, digest_images

    try:
        images = read_hub_dataset(dataset, streaming=True)
        rows = np.arange(len(images), dtype=np.int64)
        found = data_fingerprint(images, rows, digest_images(images, rows))
    except TimmGamError as error:
        raise UploadError(f"'{dataset}' is published, but reading it back failed: {error}") from error
    if found != audit.fingerprint:
        raise UploadError(
            f"'{dataset}' is published, but holds other images ({found[:12]}... for {audit.fingerprint[:12]}...); "
            "do not use it, and publish again"
        )


def _findings(audit: Audit) -> str:
    """What the audit found, in a few lines."""
    same = sum(audit.crossing(group) for group in audit.exact)
    near = sum(audit.crossing(pair[:2]) for pair in audit.near)
    splits = ", ".join(f"{audit.splits.count(split)} {split}" for split in sorted(set(audit.splits), reverse=True))
    lines = [
        f"images  {len(audit.rows)} readable in {len(set(audit.images.labels.tolist()))} classes ({splits}), "
        f"{len(audit.unreadable)} unreadable; fingerprint {audit.fingerprint[:12]}",
        f"same    {len(audit.exact)} groups with the same bytes, {same} across splits",
        f"near    {len(audit.near)} pairs nearly the same, {near} across splits",
    ]
    if audit.images.left_out:
        lines.append(f"not read  {', '.join(f'{count} {kind}' for kind, count in audit.images.left_out.items())}")
    lines += [f"warning  {line}" for line in audit.warnings]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m hub.dataset`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m hub.dataset",
        description="Publish a folder of photographs as a Hub data set: parquet shards, a card, duplicates reported.",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="class folders of images, or split folders of them")
    parser.add_argument(
        "--repo", dest="repo_id", type=hub_id, required=True, metavar="NS/NAME", help="the data set's Hub id"
    )
    add_tag_argument(parser)
    parser.add_argument(
        "--license",
        default="unknown",
        metavar="NAME",
        help="of the photographs (default: the card says none was given)",
    )
    add_near_argument(parser)
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out files that cannot be decoded (default: refuse)"
    )
    add_repository_arguments(parser)
    add_decoding_arguments(parser)
    return parser


main = publishing_command(build_parser, publish_dataset)

if __name__ == "__main__":
    sys.exit(main())
