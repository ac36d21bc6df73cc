"""The options of how embeddings are pooled and of which views, shared by commands. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_view_arguments", "chosen_views"]


def add_view_arguments(group: argparse._ActionsContainer) -> None:
    """--pool, --stages, --tta and --scales."""
    group.add_argument(
        "--pool",
        choices=("avg", "max", "gem", "rmac"),
        help="how the last feature map becomes a vector: average, maximum, GeM with p = 3, regional maxima "
        "(default: as the model does)",
    )
    group.add_argument(
        "--stages",
        nargs="+",
        type=int,
        default=(),
        metavar="N",
        help="pool these earlier feature maps too, by their numbers in timm's forward_intermediates, and put them "
        "before the last (default: none)",
    )
    group.add_argument(
        "--tta", choices=("flip",), help="embed the mean of each image and its mirror image; twice the work"
    )
    group.add_argument(
        "--scales",
        nargs="+",
        type=_scale,
        default=(1.0,),
        metavar="S",
        help="embed the mean of the input and of views with sides so many times its own: '--img-size 320 --scales 1 "
        "0.7' sees 320 and 224 pixels (default: 1)",
    )


def chosen_views(args: argparse.Namespace) -> dict[str, Any]:
    """What was chosen, as arguments of `EmbedSettings`."""
    return {
        "pool": args.pool,
        "stages": tuple(args.stages),
        "flip": args.tta == "flip",
        "scales": tuple(args.scales),
    }


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 4:
        raise argparse.ArgumentTypeError(f"'{text}' is no scale from 0.05 to 4, such as 0.7")
    return value
