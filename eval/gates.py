"""`python -m eval.gates`: how much do a network's attention gates depend on the image at all? `--help` teaches."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.shared import add_image_options, add_measuring_options, check_results_file, show
from timm_gam.core import CommandParser, DataError, ModelError, command, positive, progress_bar
from timm_gam.images import DecodeLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from timm_gam.data import ImageSet
    from timm_gam.models import LoadedModel

_BATCH = 64
_UNKNOWN = """
- : what this layer gates is zero in every image, so its gates cannot be seen and change nothing: the batch norm before
it starts at zero, and these weights were not trained since
"""
_EPILOG = """\
columns
  level        mean gate; an identity start has 0.25 to 0.5, a gate that does nothing 1
  image        standard deviation of a gate over images: how far it moves with what it sees
  place        standard deviation of the gates' means over channels and positions: how they differ whatever the image
  share        of the gates' variance that the image decides; near 0 the gates are constants, which are weights of the
               layer before (arXiv 2304.06345), and the network is a plain one in other clothes
  mAP below    leave-one-out over the other half of the images: as it is, with every gate frozen at its mean, with those
               of another image

examples
  python -m eval.gates --model resnet50_se.a1_in1k --data-dir photos
  python -m eval.gates --model test_resnet_gam.corel --dataset synthetic --images 400 --results-file gates.json
  python -m eval.gates --model efficientnet_b0.ra_in1k --data-dir photos --device cuda     # any gated timm model

exit codes: 0 measured, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True)
class GateAudit:
    """What a network's gates do over images.

    Attributes:
        layers: Per gate layer: layer, level, image, place (see --help), share in [0, 1]; None where the branch is zero.
        images: Images that the gates were measured on.
        queries: Other images that were scored, leave-one-out.
        map: mAP in [0, 1]: "own" gates, "frozen" at their means, "shuffled" between images.
    """

    layers: list[dict[str, float | str | None]]
    images: int
    queries: int
    map: dict[str, float]


def audit_gates(
    loaded: LoadedModel,
    images: ImageSet,
    *,
    most: int = 512,
    img_size: int | None = None,
    device: str = "cpu",
    limits: DecodeLimits = DecodeLimits(),
) -> GateAudit:
    """Measure the gates on half of the images and score the other half with own, frozen and shuffled gates.

    Args:
        loaded: From `timm_gam.load_model`.
        images: The image set.
        most: Images to use, evenly spread; half of them are measured.
        img_size: Pixels; default the model's own.
        device: Where the network runs.
        limits: What one image may take to decode.

    Raises:
        ModelError: the network has no gate layer that is known.
        DataError: too few images.
        TimmGamError: an image cannot be read.
    """
    import numpy as np
    import torch

    from eval.scoring.retrieval_scores import score_retrieval
    from timm_gam.embed import embedding_network
    from timm_gam.images import network_inputs, resolve_preprocessing
    from timm_gam.models import frozen_gates, gate_layers, measure_gates, shuffled_gates
    from timm_gam.search import slices

    model = loaded.model.eval().to(device)
    if not any(True for _ in gate_layers(model)):
        raise ModelError(
            f"{loaded.info.name} has no gate layer that is known (SE, ECA, CBAM, GAM, gather-excite); "
            "name a gated model"
        )
    preprocessing = resolve_preprocessing(model, img_size=img_size)
    order = np.argsort(images.labels, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(np.int64))]
    measured, scored = np.sort(chosen[::2]), np.random.default_rng(0).permutation(chosen[1::2])
    if len(scored) < 2 or len(np.unique(images.labels[scored])) == len(scored):
        raise DataError(f"{len(images)} images leave no two of a class to score; give more images, or --images")
    if len(np.unique(images.labels[scored])) == 1:
        raise DataError(f"'{images.name}' has images of one class, so every ranking is right; give two classes or more")
    network = embedding_network(model)
    with progress_bar("gates", "img", len(chosen)) as advance:

        def batches(rows: NDArray[np.int64]) -> Iterator[Tensor]:
            for some in slices(0, len(rows), _BATCH):
                batch = network_inputs(images, rows[some].tolist(), preprocessing, limits)
                yield torch.stack([pixels for _, pixels in batch]).to(device)
                advance(len(rows[some]))

        uses = measure_gates(model, batches(measured))
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "own": nullcontext,
            "frozen": lambda: frozen_gates(model, uses),
            "shuffled": lambda: shuffled_gates(model),
        }
        vectors: dict[str, list[Tensor]] = {name: [] for name in ways}
        for batch in batches(scored):  # decoded once for the three of them
            for name, way in ways.items():
                with way(), torch.inference_mode():
                    vectors[name].append(network(batch).float().cpu())
    labels, found = images.labels[scored], {}
    for name, parts in vectors.items():
        scores = score_retrieval(torch.cat(parts), labels, ks=(1,), intervals="none")
        found[name] = scores.averages["map"].micro
    layers: list[dict[str, float | str | None]] = []
    for name, use in uses.items():
        figures = {"level": use.level, "image": use.over_images, "place": use.over_values, "share": use.share}
        known = math.isfinite(use.level)
        layers.append({"layer": name, **{of: value if known else None for of, value in figures.items()}})
    return GateAudit(layers, len(measured), len(scored), found)


def build_parser() -> CommandParser:
    """The parser of `python -m eval.gates`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m eval.gates",
        description="Show how much each attention gate of a network depends on the image, and what that is worth.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="a gated timm model with pretrained weights")
    add("--checkpoint", type=Path, metavar="FILE", help="safetensors weights instead")
    add_image_options(parser.add_mutually_exclusive_group(required=True))
    add("--images", type=positive, default=512, metavar="N", help="images to use, evenly spread (default: 512)")
    add("--img-size", type=positive, metavar="N", help="pixels (default: the model's own)")
    add_measuring_options(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    from timm_gam.core import usable_device
    from timm_gam.data import read_images
    from timm_gam.models import load_model

    check_results_file(args.results_file, args.checkpoint, args.data_dir)
    device = str(usable_device(args.device))
    images = read_images(args.data_dir, args.dataset)
    loaded = load_model(args.model, checkpoint=args.checkpoint)
    audit = audit_gates(
        loaded, images, most=args.images, img_size=args.img_size, device=device, limits=DecodeLimits.of(args)
    )
    content = {"schema": "timm-gam/gates/1", "model": loaded.info.name, "data": images.name, **asdict(audit)}
    show(args.results_file, content, lambda: gate_table(audit))


def gate_table(audit: GateAudit) -> str:
    """A row per gate layer, and below it what the gates' dependence on the image is worth."""
    from eval.tables.metric_tables import text_table

    rows = [["gate layer", "level", "image", "place", "share, %"]]
    for layer in audit.layers:
        shown = [(layer["level"], 1), (layer["image"], 1), (layer["place"], 1), (layer["share"], 100)]
        numbers = ["-" if value is None else f"{factor * float(value):.3f}" for value, factor in shown]
        rows.append([str(layer["layer"]), *numbers])
    dashes = "" if all(layer["level"] is not None for layer in audit.layers) else _UNKNOWN
    own, frozen, shuffled = (100 * audit.map[name] for name in ("own", "frozen", "shuffled"))
    return (
        f"gates over {audit.images} images\n\n{text_table(rows, (0,))}\n{dashes}\n"
        f"mAP of {audit.queries} other images: {own:.2f}; gates frozen at their means {frozen - own:+.2f} points, "
        f"those of another image {shuffled - own:+.2f}"
    )


main = command(build_parser, _run, interrupted="interrupted; nothing was written")

if __name__ == "__main__":
    sys.exit(main())
