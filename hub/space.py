"""`python -m hub.space`: an index of photographs -> a Hub Space with its search page.

This module parses, prints and exits; `publish_space` is the function to call from Python.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.arguments import add_repository_arguments, hub_id, publishing_command
from timm_gam.core import (
    CommandParser,
    ProgressBar,
    RefusedError,
    UploadError,
    no_progress,
    temporary_folder,
)
from timm_gam.images import DecodeLimits, add_decoding_arguments

if TYPE_CHECKING:
    from hub.push import Pushed

_EPILOG = """\
examples
  index photographs by a published model, look at the Space that would be, and start it here:
    timm-gam search index photos --model hf-hub:me/resnet50_gam
    python -m hub.space photos --repo me/find --license cc-by-4.0 --dry-run --out find
    PORT=7860 HOST=127.0.0.1 python find/app.py
  publish it:
    python -m hub.space photos --repo me/find --license cc-by-4.0

Publish only photographs that you may, and that everybody may see in full size: a Space shows its originals.
exit codes: 0 published (or nothing to do), 2 refused or failed (one line says why), 130 interrupted
"""


def publish_space(
    photos: Path,
    repo_id: str,
    *,
    license: str,
    package: str | None = None,
    with_places: bool = False,
    private: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
    limits: DecodeLimits | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: ProgressBar = no_progress,
) -> Pushed | None:
    """Build a Docker Space of an index's search page, publish it in one commit and compare what is there.

    Args:
        photos: An index of `timm-gam search index`, or the folder that holds one.
        repo_id: "owner/name".
        license: Hub identifier, of the photographs.
        package: What pip installs in the Space; default this version of timm-gam.
        with_places: Whether photographs may tell where they were taken (EXIF GPS).
        private: Whether a new repository is private.
        dry_run: Build and compare, send nothing.
        out: Folder for the repository; default a temporary one.
        limits: What one photograph may take to decode; default `DecodeLimits()`.
        log: Called with each line of progress.
        progress: Makes a bar for the photographs that are copied.

    Returns:
        Where the Space is; None for a dry run.

    Raises:
        DataError: there is no index.
        RefusedError: as `hub.push.push_folder`, `out` is there already, or the index is none that can be published.
        UploadError: the Hub did not take it, or gave back something else.

    >>> from timm_gam.embed import EmbedSettings
    >>> from timm_gam.search import PhotoIndex, load_collection, update_index
    >>> how = EmbedSettings(workers=0, on_unreadable="skip")
    >>> _ = update_index(PhotoIndex.create(Path("photos")), *load_collection("test_resnet_gam.corel", settings=how))
    >>> pushed = publish_space(Path("photos"), "me/find", license="cc0-1.0", dry_run=True, out=Path("space"))
    >>> Path("space", "app.py").is_file()
    True
    """
    from hub.photos.space_repository import write_space_repository
    from hub.push import compare_with_hub, preview_push, push_folder
    from timm_gam.search import PhotoIndex

    if out is not None and out.exists():
        raise RefusedError(f"'{out}' is there already; remove it, or name another --out")
    index = PhotoIndex.open(photos)
    with temporary_folder("space") as temporary, progress("copying", "img", None) as on_progress:
        built = temporary / "space"
        count = write_space_repository(
            built,
            index,
            repo_id,
            license=license,
            package=package,
            with_places=with_places,
            limits=limits or DecodeLimits(),
            on_progress=on_progress,
        )
        size = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
        log(f"built   {count:,} photographs by {index.collection().model}, {size / 2**20:,.1f} MB")
        if out is not None:
            shutil.copytree(built, out)
        if dry_run:
            log(preview_push(built, repo_id, "space"))
            return None
        message = f"Show {count} photographs"
        pushed = push_folder(built, repo_id, repo_type="space", private=private, message=message)
        if differ := compare_with_hub(built, repo_id, "space"):
            raise UploadError(f"'{repo_id}' is published, but holds something else; publish again\n{differ}")
    log(f"{pushed}\n{pushed.url}")
    return pushed


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m hub.space`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m hub.space",
        description="Publish the search page of an index of photographs as a Hub Space (Docker).",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "photos", type=Path, metavar="INDEX", help="of timm-gam search index, or the folder that has it"
    )
    parser.add_argument(
        "--repo", dest="repo_id", type=hub_id, required=True, metavar="NS/NAME", help="the Space's Hub id"
    )
    parser.add_argument("--license", required=True, metavar="NAME", help="of the photographs, such as cc-by-4.0")
    parser.add_argument(
        "--package", metavar="SPEC", help="what pip installs in the Space (default: this version of timm-gam[search])"
    )
    parser.add_argument("--with-places", action="store_true", help="also photographs that tell where they were taken")
    add_repository_arguments(parser)
    add_decoding_arguments(parser)
    return parser


main = publishing_command(build_parser, publish_space)

if __name__ == "__main__":
    sys.exit(main())
