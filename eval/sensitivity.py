"""`python -m eval.sensitivity`: what the usual differences in preprocessing are worth. `--help` by example."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from eval.arguments.shared import add_image_options, add_measuring_options, check_results_file, show
from timm_gam.core import CommandParser, command, positive, progress_bar
from timm_gam.images import DecodeLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from timm_gam.data import ImageSet
    from timm_gam.images import Preprocessing, Transform
    from timm_gam.models import LoadedModel

_EPILOG = """\
example
    python -m eval.sensitivity --model resnet50.a1_in1k --data-dir photos --classes 20

Each row scores the same images with one thing changed and everything else the model's own: the paired difference from
its own preprocessing, with its interval and p. Every variant embeds all images anew: --classes keeps it
short.
exit codes: 0 scored, 2 bad input (one line says what is legal), 130 interrupted
"""


@dataclass(frozen=True)
class Effect:
    """What a variant of the preprocessing does to a metric, in [0, 1].

    Attributes:
        variant: What was changed.
        value: The metric with it.
        difference: From the model's own preprocessing, paired over queries.
        interval: 95 % interval of the difference.
        p: Of a paired permutation test.
    """

    variant: str
    value: float
    difference: float
    interval: tuple[float, float] | None
    p: float


def variants(own: Preprocessing) -> dict[str, Preprocessing | Transform]:
    """The usual variants of a model's preprocessing, the model's own first.

    >>> import timm
    >>> from timm_gam.images import resolve_preprocessing
    >>> list(variants(resolve_preprocessing(timm.create_model("test_resnet"))))[:3]
    ['own', 'interpolation nearest', 'interpolation bicubic']
    """
    found: dict[str, Preprocessing | Transform] = {"own": own}
    for interpolation in ("nearest", "bilinear", "bicubic"):
        found[f"interpolation {interpolation}"] = replace(own, interpolation=interpolation)
    found["resized without antialiasing"] = partial(_sampled, own)
    for share in (0.875, 1.0):
        found[f"crop share {share:g}"] = replace(own, crop_pct=share)
    for mode in ("center", "squash", "border"):
        found[f"crop mode {mode}"] = replace(own, crop_mode=mode)
    height, width = own.input_size[1:]
    for factor in (0.75, 1.25):
        side = (own.input_size[0], max(int(height * factor), 1), max(int(width * factor), 1))
        found[f"{side[2]} x {side[1]} pixels"] = replace(own, input_size=side)
    found["mean and std 0.5"] = replace(own, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    found["mean and std of ImageNet"] = replace(own, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    found["not normalised"] = replace(own, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found["BGR for RGB"] = partial(_swapped, own.transform())
    return {name: one for name, one in found.items() if name == "own" or one != own}


def _swapped(own: Transform, image: Image.Image) -> Tensor:
    """Blue and red exchanged."""
    from PIL import Image

    return own(Image.merge("RGB", image.split()[::-1]))


def _sampled(own: Preprocessing, image: Image.Image) -> Tensor:
    """Resized as tensors without antialiasing, as some pipelines do."""
    import torch
    from torchvision.transforms.functional import center_crop, normalize, pil_to_tensor, resize

    height, width = (int(side / own.crop_pct) for side in own.input_size[1:])
    scale = max(height / image.height, width / image.width)
    size = [max(round(image.height * scale), height), max(round(image.width * scale), width)]
    pixels = resize(pil_to_tensor(image).to(torch.float32) / 255, size, antialias=False)
    cropped: Tensor = center_crop(pixels, list(own.input_size[1:]))
    normalised: Tensor = normalize(cropped, list(own.mean), list(own.std))
    return normalised


def sensitivity(
    loaded: LoadedModel,
    images: ImageSet,
    *,
    rows: NDArray[np.int64] | None = None,
    metric: str = "map",
    device: str = "cpu",
    limits: DecodeLimits = DecodeLimits(),
) -> list[Effect]:
    """Score a model under variants of its preprocessing.

    Args:
        loaded: From `timm_gam.load_model`.
        images: The image set.
        rows: Ascending rows of it, each a query against all others; default all.
        metric: Any that `eval.score` gives.
        device: Where the network runs.
        limits: What one image may take to decode; default `DecodeLimits()`.

    Raises:
        TimmGamError: as `eval.score` and `timm_gam.embed.embed_images`.
    """
    from eval.evaluation.evaluate import score
    from timm_gam.embed import EmbedSettings, embed_images, embedding_network
    from timm_gam.images import resolve_preprocessing

    network = embedding_network(loaded.model)
    results = {}
    for name, preprocessing in variants(resolve_preprocessing(loaded.model)).items():
        with progress_bar(name, "img", len(images) if rows is None else len(rows)) as on_progress:
            settings = EmbedSettings(device=device, limits=limits)
            embedded = embed_images(network, images, preprocessing, settings, rows=rows, on_progress=on_progress)
        results[name] = score(embedded.vectors, images.labels[embedded.rows], name=name)
    effects = []
    for name, result in results.items():
        against = result.compare(results["own"], metric)
        value = result.averages[metric].micro
        effects.append(Effect(name, value, against.difference, against.interval, against.p))
    return effects


def build_parser() -> CommandParser:
    """The parser of `python -m eval.sensitivity`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m eval.sensitivity",
        description="Show what the usual differences in preprocessing are worth.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="a timm model with pretrained weights")
    add("--checkpoint", metavar="FILE", help="safetensors weights instead")
    add_image_options(parser)
    add("--classes", type=positive, metavar="N", help="only the first N classes by name (default: all)")
    add("--metric", default="map", help="(default: map)")
    add_measuring_options(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    import numpy as np

    from eval.tables.metric_tables import bounds, text_table
    from timm_gam.data import class_warnings, read_images
    from timm_gam.models import load_model

    check_results_file(args.results_file)
    loaded = load_model(args.model, checkpoint=args.checkpoint)
    images = read_images(args.data_dir, args.dataset)
    rows = np.flatnonzero(images.labels < (args.classes or len(images.class_names)))
    effects = sensitivity(
        loaded, images, rows=rows, metric=args.metric, device=args.device, limits=DecodeLimits.of(args)
    )
    warnings = [*images.notes, *class_warnings(images.labels[rows], images.class_names)]
    content = {
        "model": args.model,
        "data": images.name,
        "images": len(rows),
        "left_out": dict(images.left_out),
        "warnings": warnings,
        "metric": args.metric,
        "effects": [asdict(effect) for effect in effects],
    }
    table = [[f"{args.model}, {len(rows)} images", f"{args.metric}, %", "difference", "95 %", "p"]]
    for effect in effects:
        cells = [f"{100 * effect.difference:+.2f}", bounds(effect.interval, "+.2f"), f"{effect.p:.2g}"]
        changed = cells if effect.variant != "own" else ["", "", ""]
        table.append([effect.variant, f"{100 * effect.value:.2f}", *changed])
    warning_lines = [f"warning   {line}" for line in warnings]
    show(args.results_file, content, lambda: "\n".join([text_table(table, rules=(0, 1)), *warning_lines]))


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
