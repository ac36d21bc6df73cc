"""The options that change a model's own preprocessing, for every command that has them. Imports nothing heavy."""

from __future__ import annotations

import argparse

from timm_gam.core import positive

__all__ = ["add_preprocessing_arguments"]


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
