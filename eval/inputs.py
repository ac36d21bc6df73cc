"""From what the command line names to an image set and models, with the defaults where nothing is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import timm

import timm_gam
from eval.errors import DataError, EvalError, ModelError
from eval.images import ImageSet
from eval.models import LoadedModel, load_model
from eval.sources.folder import read_folder
from eval.sources.hub_dataset import read_hub_dataset
from eval.sources.pair import pair_query_gallery
from eval.sources.parquet import read_parquet
from eval.synthetic import draw_synthetic

__all__ = ["DEFAULT_MODEL", "EMBEDDED_MODELS", "Inputs", "choose_inputs"]

DEFAULT_MODEL = "resnet50_gam.corel"
EMBEDDED_MODELS = ("test_resnet", "test_resnet_se", "test_resnet_cbam", "test_resnet_gam")
SYNTHETIC = "synthetic"

ModelLoader = Callable[[], LoadedModel]


class Inputs:
    """What a run scores: an image set, one loader per model, and what the reader must be told."""

    def __init__(self, images: ImageSet, models: list[ModelLoader], note: str | None = None) -> None:
        self.images, self.models, self.note = images, models, note


def default_dataset() -> str:
    """The COREL data set of the namespace."""
    return f"{timm_gam.hub_namespace()}/corel"


def choose_inputs(args: argparse.Namespace) -> Inputs:
    """Read the image set and prepare the models that `args` names.

    With neither models nor data named: the Hub defaults, or the embedded default where the first of them cannot be
    had, with a note that says why. What is named is had or is an error.

    Raises:
        EvalError: something named cannot be had; the message says what is legal.
    """
    if args.model is None and args.data_dir is None and args.dataset is None:
        try:
            loaded = load_model(DEFAULT_MODEL)
            return Inputs(read_hub_dataset(default_dataset()), [lambda: loaded])
        except EvalError as error:
            note = f"{error}\nscoring the embedded default instead: untrained tiny models on images drawn by code"
            models = [_loader(name, None, False, args.seed) for name in EMBEDDED_MODELS]
            return Inputs(draw_synthetic(), models, note)
    names = [match for name in args.model or [DEFAULT_MODEL] for match in _expand(name)]
    files = args.checkpoint or [None] * len(names)
    if len(files) != len(names):
        raise ModelError(f"{len(files)} checkpoints came for {len(names)} models; name one per model, in order")
    models = [_loader(name, file, args.pretrained, args.seed) for name, file in zip(names, files, strict=True)]
    return Inputs(_images(args), models)


def _loader(name: str, checkpoint: str | None, pretrained: bool, seed: int) -> ModelLoader:
    return lambda: load_model(name, checkpoint=checkpoint, pretrained=pretrained, seed=seed)


def _expand(name: str) -> list[str]:
    if not any(c in name for c in "*?["):
        return [name]
    names: list[str] = timm.list_models(name, pretrained="." in name)
    if not names:
        raise ModelError(f"no model matches '{name}'; list them with timm.list_models('{name.strip('*')}*')")
    return names


def _images(args: argparse.Namespace) -> ImageSet:
    if args.data_dir is not None and args.dataset is not None:
        raise DataError("both --data-dir and --dataset came; name one (and --gallery-dir for a separate gallery)")
    if args.data_dir is not None:
        images = _local(args.data_dir, args)
    elif args.dataset == SYNTHETIC:
        images = draw_synthetic()
    else:
        images = read_hub_dataset(
            args.dataset or default_dataset(),
            image_column=args.image_column,
            label_column=args.label_column,
            id_column=args.id_column,
            streaming=args.streaming,
        )
    if args.gallery_dir is not None:
        images = pair_query_gallery(images, _local(args.gallery_dir, args))
    return images


def _local(name: str, args: argparse.Namespace) -> ImageSet:
    path = Path(name)
    if path.suffix == ".parquet" or (path.is_dir() and next(path.glob("*.parquet"), None) is not None):
        return read_parquet(
            path, image_column=args.image_column, label_column=args.label_column, id_column=args.id_column
        )
    return read_folder(path)
