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

__all__ = ["DEFAULT_MODEL", "EMBEDDED_MODELS", "Inputs", "choose_inputs", "read_images"]

DEFAULT_MODEL = "resnet50_gam.corel"
EMBEDDED_MODELS = ("test_resnet.corel", "test_resnet_se.corel", "test_resnet_cbam.corel", "test_resnet_gam.corel")
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

    With nothing named: the Hub defaults, or the embedded default where the first of them cannot be had, with a note
    that says why. What is named is had or is an error.

    Raises:
        EvalError: something named cannot be had; the message says what is legal.
    """
    if not _names_anything(args):
        try:
            loaded = load_model(DEFAULT_MODEL)
            return Inputs(read_hub_dataset(default_dataset()), [lambda: loaded])
        except EvalError as error:
            note = f"{error}\nscoring the embedded default instead: our tiny COREL models on images drawn by code"
            models = [_loader(name, None, True, args.seed) for name in EMBEDDED_MODELS]
            return Inputs(draw_synthetic(), models, note)
    names = [match for name in args.model or [DEFAULT_MODEL] for match in _expand(name)]
    files = args.checkpoint or [None] * len(names)
    if len(files) != len(names):
        raise ModelError(f"{len(files)} checkpoints came for {len(names)} models; name one per model, in order")
    models = [_loader(name, file, args.pretrained, args.seed) for name, file in zip(names, files, strict=True)]
    return Inputs(_images(args), models)


def _names_anything(args: argparse.Namespace) -> bool:
    """Whether a model, weights or data are named in any part."""
    parts = (args.model, args.checkpoint, args.data_dir, args.dataset, args.gallery_dir)
    columns = (args.image_column, args.label_column, args.id_column)
    return not args.pretrained or args.streaming or any(part is not None for part in (*parts, *columns))


def _loader(name: str, checkpoint: str | None, pretrained: bool, seed: int) -> ModelLoader:
    return lambda: load_model(name, checkpoint=checkpoint, pretrained=pretrained, seed=seed)


def _expand(name: str) -> list[str]:
    if not any(c in name for c in "*?["):
        return [name]
    names: list[str] = timm.list_models(name, pretrained="." in name)
    if not names:
        raise ModelError(f"no model matches '{name}'; list them with timm.list_models('{name.strip('*')}*')")
    return names


def read_images(
    data_dir: str | None,
    dataset: str | None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    streaming: bool = False,
) -> ImageSet:
    """Read the image set that the options --data-dir and --dataset name; with neither, the default of the namespace.

    Args:
        data_dir: A folder of class folders, a parquet file or a folder of them.
        dataset: A Hub data set id[@revision], or "synthetic".
        image_column: Of parquet or a Hub data set; found by type where None.
        label_column: Likewise.
        id_column: Likewise.
        streaming: Read a Hub data set without downloading it first.

    Raises:
        EvalError: both are named, or what is named cannot be read.
    """
    if data_dir is not None and dataset is not None:
        raise DataError("both --data-dir and --dataset came; name one (and --gallery-dir for a separate gallery)")
    columns = {"image_column": image_column, "label_column": label_column, "id_column": id_column}
    if data_dir is not None:
        path = Path(data_dir)
        if _is_parquet(path):
            return read_parquet(path, **columns)
        named = [f"--{name.replace('_', '-')}" for name, column in columns.items() if column is not None]
        if named:
            raise DataError(f"{' and '.join(named)} came with the folder '{path}', which has no columns; leave it out")
        return read_folder(path)
    if dataset == SYNTHETIC:
        return draw_synthetic()
    return read_hub_dataset(default_dataset() if dataset is None else dataset, **columns, streaming=streaming)


def _images(args: argparse.Namespace) -> ImageSet:
    columns = {"image_column": args.image_column, "label_column": args.label_column, "id_column": args.id_column}
    images = read_images(args.data_dir, args.dataset, **columns, streaming=args.streaming)
    if args.gallery_dir is not None:
        gallery_columns = columns if _is_parquet(Path(args.gallery_dir)) else {}
        images = pair_query_gallery(images, read_images(args.gallery_dir, None, **gallery_columns))
    return images


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or (path.is_dir() and next(path.glob("*.parquet"), None) is not None)
