"""Which model embeds which images, and how: options that commands over embeddings share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.shared import add_image_options
from timm_gam.core import count
from timm_gam.embed import add_view_arguments, chosen_views, with_head
from timm_gam.images import DecodeLimits, add_decoding_arguments, add_preprocessing_arguments, chosen_preprocessing

if TYPE_CHECKING:
    from eval.results.result import Settings
    from timm_gam.images import Preprocessing
    from timm_gam.models import LoadedModel


def add_embedding_options(parser: argparse.ArgumentParser, *, head: bool = True) -> None:
    """--model, the images, how they are embedded and where; --head unless it is to be trained."""
    parser.add_argument("--model", required=True, metavar="NAME", help="a timm model, as timm-gam score takes it")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="safetensors weights for --model")
    add_image_options(parser)
    add_view_arguments(parser.add_argument_group("embeddings"), head=head)
    add_preprocessing_arguments(parser)
    add_decoding_arguments(parser)
    compute = parser.add_argument_group("computing")
    compute.add_argument("-j", "--workers", type=count, metavar="N", help="decoding processes (default: by device)")
    compute.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")
    compute.add_argument("--cache-dir", type=Path, metavar="FOLDER", help="keep embeddings here and reuse them")


def read_embedding_options(args: argparse.Namespace) -> tuple[LoadedModel, Preprocessing, Settings]:
    """What was chosen.

    Raises:
        ModelError: no such model or weights.
    """
    from eval.results.result import Settings
    from timm_gam.embed import EmbedSettings
    from timm_gam.images import resolve_preprocessing
    from timm_gam.models import load_model

    loaded = with_head(load_model(args.model, checkpoint=args.checkpoint), getattr(args, "head", "none"))
    preprocessing = resolve_preprocessing(loaded.model, **chosen_preprocessing(args))
    limits = DecodeLimits.of(args)
    embed = EmbedSettings(workers=args.workers, device=args.device, limits=limits, **chosen_views(args))
    return loaded, preprocessing, Settings(embed, cache_folder=args.cache_dir)
