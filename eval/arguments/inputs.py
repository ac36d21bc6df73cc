"""From what the command line names to an image set and models, with the defaults where nothing is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from eval.arguments.model_choices import ModelChoice, choose_models
from eval.demo import DEMO_MODELS
from timm_gam.core import DataError, TimmGamError
from timm_gam.data import (
    ImageSet,
    default_dataset,
    draw_synthetic,
    is_parquet,
    pair_query_gallery,
    read_hub_dataset,
    read_images,
)
from timm_gam.models import LoadedModel, load_model

DEFAULT_MODEL = "resnet50_gam"

ModelLoader = Callable[[], LoadedModel]


class Inputs:
    """What a run scores: an image set, one loader per model, and what the reader must be told."""

    def __init__(self, images: ImageSet, models: Sequence[ModelLoader], note: str | None = None) -> None:
        self.images, self.models, self.note = images, models, note


def choose_inputs(args: argparse.Namespace) -> Inputs:
    """Read the image set and prepare the models that `args` names.

    With nothing named: the Hub defaults, or the embedded default where the first of them cannot be had, with a note
    that says why. What is named is had or is an error.

    Raises:
        TimmGamError: something named cannot be had; the message says what is legal.
    """
    if not _names_anything(args):
        try:
            default = ModelChoice(DEFAULT_MODEL, DEFAULT_MODEL)
            loaded = default.load()
            return Inputs(read_hub_dataset(default_dataset()), [lambda: loaded], default.remark)
        except TimmGamError as error:
            note = f"{error}\nscoring the embedded default instead: our tiny COREL models on images drawn by code"
            models = [partial(load_model, name) for name in DEMO_MODELS]
            return Inputs(draw_synthetic(), models, note)
    for path in (args.data_dir, args.gallery_dir):
        if path is not None and not Path(path).exists():  # before weights are pulled
            raise DataError(f"there is no '{path}'; name a folder of class folders, or parquet")
    choices, skipped = choose_models(
        args.model or [DEFAULT_MODEL], args.checkpoint, pretrained=args.pretrained, seed=args.seed
    )
    notes = [choice.remark for choice in choices if choice.remark]
    notes += [f"left out, as they have no weights that can be had: {', '.join(skipped)}"] if skipped else []
    return Inputs(_images(args), [choice.load for choice in choices], "\n".join(notes) or None)


def _names_anything(args: argparse.Namespace) -> bool:
    """Whether a model, weights or data are named in any part."""
    parts = (args.model, args.checkpoint, args.data_dir, args.dataset, args.gallery_dir)
    columns = (args.image_column, args.label_column, args.id_column, args.config_name, args.image_root)
    return not args.pretrained or args.streaming or any(part is not None for part in (*parts, *columns))


def _images(args: argparse.Namespace) -> ImageSet:
    columns = {"image_column": args.image_column, "label_column": args.label_column, "id_column": args.id_column}
    of_table = {**columns, "image_root": args.image_root}
    local = of_table if args.data_dir is not None else columns
    images = read_images(
        args.data_dir,
        args.dataset,
        **local,
        config_name=args.config_name,
        streaming=args.streaming,
        splits=_needed_splits(args),
    )
    if args.gallery_dir is not None:
        gallery_columns = of_table if is_parquet(Path(args.gallery_dir)) else {}
        images = pair_query_gallery(images, read_images(args.gallery_dir, None, **gallery_columns))
    return images


def _needed_splits(args: argparse.Namespace) -> tuple[str, ...] | None:
    """The splits that the protocol ranks; None for all, as class-disjoint needs the names of all classes."""
    if args.gallery_dir is not None or args.protocol == "class-disjoint" or args.split == "all":
        return None
    if args.protocol == "query-gallery":
        return args.query_split or "test", args.gallery_split or "train"
    return None if args.split is None else (args.split,)
