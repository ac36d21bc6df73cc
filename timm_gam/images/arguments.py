"""The options of every command that reads images: a model's preprocessing, what one image may take to decode.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
from typing import Any

from timm_gam.core import positive, share
from timm_gam.images.limits import DecodeLimits


def add_preprocessing_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options that change a model's own preprocessing, under the names of `resolve_preprocessing`."""
    image = parser.add_argument_group("preprocessing (default: the model's own)")
    image.add_argument("--img-size", type=positive, metavar="PIXELS", help="side of the square input")
    image.add_argument("--crop-pct", type=float, metavar="SHARE", help="centre crop as a share of the resized image")
    image.add_argument("--crop-mode", choices=("center", "squash", "border"), help="how the image becomes a square")
    image.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, ...")
    image.add_argument("--mean", nargs=3, type=float, metavar=("R", "G", "B"), help="subtracted from values in [0, 1]")
    image.add_argument("--std", nargs=3, type=float, metavar=("R", "G", "B"), help="divides after that")
    return image


def chosen_preprocessing(args: argparse.Namespace) -> dict[str, Any]:
    """What of these options was given or not, as `resolve_preprocessing` takes it."""
    return {name: getattr(args, name) for name in ("img_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")}


def add_decoding_arguments(parser: argparse.ArgumentParser, *, only_given: bool = False) -> argparse._ArgumentGroup:
    """What one image may take to decode; `DecodeLimits.of` reads these options.

    Args:
        parser: Gets them.
        only_given: Those that are not given are not in what is parsed: a recipe has them.
    """
    limits = parser.add_argument_group("what one image may take to decode, or it is unreadable")
    own = DecodeLimits()
    only_given = only_given or parser.argument_default is argparse.SUPPRESS
    for option, value, metavar, text in (
        ("--max-scans", own.scans, "N", "scans of a JPEG"),
        ("--max-decode-mb", own.megabytes, "MB", "memory"),
        ("--max-decode-seconds", own.seconds, "S", "processor time"),
    ):
        default = argparse.SUPPRESS if only_given else value
        limits.add_argument(option, type=positive, default=default, metavar=metavar, help=f"{text} (default: {value})")
    return limits


def add_near_argument(parser: argparse.ArgumentParser) -> None:
    """`--near`: from where on two pictures are nearly the same; None stands for `timm_gam.images.NEAR`."""
    parser.add_argument(
        "--near",
        type=share,
        metavar="R",
        help="near duplicates: edges that correlate by at least R, above 0, at most 1 (default: 0.85)",
    )
