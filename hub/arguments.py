"""Options that the publishing commands share, named as the functions behind them take them. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm_gam.core import command, is_hub_id, print_line, progress_bar
from timm_gam.images import DecodeLimits

_INTERRUPTED = "interrupted; a repository is published whole or not at all, run the same command again"


def hub_id(text: str) -> str:
    """What reads --repo: refused before photographs are read for hours rather than by the Hub's client after that."""
    if not (is_hub_id(text) and "/" in text and text.isascii()):
        raise argparse.ArgumentTypeError(f"'{text}' is no Hub id; one reads owner/name")
    return text


def add_repository_arguments(parser: argparse.ArgumentParser, *, out: bool = True) -> None:
    """How a repository is made, and where it is kept if `out`."""
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="build and compare with the Hub, send nothing")
    if out:
        parser.add_argument("--out", type=Path, metavar="DIR", help="also keep the repository in this folder")


def add_tag_argument(parser: argparse.ArgumentParser) -> None:
    """--revision."""
    parser.add_argument("--revision", dest="tag", metavar="TAG", help="tag the commit; an existing tag never moves")


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """What publishing one model and releasing the zoo share."""
    add = parser.add_argument
    add("--namespace", metavar="NS", help="Hub user or organisation (default: TIMM_GAM_NAMESPACE, else timm-gam)")
    add_tag_argument(parser)
    add("--fp16", dest="half", action="store_true", help="publish float16 weights")
    add("--license", metavar="NAME", help="of the weights (default: the registered model's)")
    add("--dataset", metavar="ID", help="Hub data set of training and evaluation (default: the one the run read)")


def publishing_command(
    parser: Callable[[], argparse.ArgumentParser], publish: Callable[..., object]
) -> Callable[..., int]:
    """A command line of options that are keywords of `publish`, those of `add_decoding_arguments` as `limits`."""

    def run(args: argparse.Namespace) -> None:
        options: dict[str, Any] = dict(vars(args))
        if "max_scans" in options:
            options["limits"] = DecodeLimits.of(args)
            for name in ("max_scans", "max_decode_mb", "max_decode_seconds"):
                del options[name]
        publish(**options, log=print_line, progress=progress_bar)

    return command(parser, run, interrupted=_INTERRUPTED)
