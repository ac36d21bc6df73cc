"""The options of how embeddings are pooled and of which views, shared by commands. Imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_gam.core import CheckpointError, number

if TYPE_CHECKING:
    from timm_gam.models import LoadedModel


def add_view_arguments(group: argparse._ActionsContainer, *, head: bool = True) -> None:
    """--pool, --stages, --tta and --scales, and --head unless it is to be trained."""
    if head:
        group.add_argument(
            "--head",
            metavar="FILE",
            help="a head that timm-gam head trained on embeddings of this model; its --pool to --scales come with it; "
            "'none' for none (default: the one published with the model, if any)",
        )
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
        type=number(float, "a scale from 0.05 to 4, such as 0.7", 0.05, 4),
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


def with_head(loaded: LoadedModel, head: str | None) -> LoadedModel:
    """The model with the head that --head names.

    Raises:
        CheckpointError: there is no such file.
    """
    if head is None:
        return loaded
    if head == "none":
        return replace(loaded, head=None)
    if not Path(head).is_file():
        raise CheckpointError(f"there is no head '{head}'; name a file of timm-gam head, or none")
    return replace(loaded, head=Path(head))
