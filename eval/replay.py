"""`python -m eval.replay`: score again what a record says was scored, and say what differs. `--help` by example."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.arguments.shared import add_image_options, add_measuring_options, check_results_file, show
from timm_gam.core import CommandParser, DataError, command, printable, progress_bar
from timm_gam.images import DecodeLimits

if TYPE_CHECKING:
    from eval.results.document import Entry
    from eval.results.result import RetrievalResult
    from timm_gam.data import ImageSet

_EPILOG = """\
examples
  does this machine give the numbers of a record?
    python -m eval.replay results.json --data-dir photos
  of a checkpoint, which the record names by its file only:
    python -m eval.replay results.json --data-dir photos --checkpoint model.safetensors

What is compared: images (fingerprint), weights (SHA-256), preprocessing (certificate: every step, the decoder, and the
pixels it made of two fixed images), package versions, and every metric.
exit codes: 0 the same numbers, 1 other numbers, 2 bad input (one line says what is legal), 130 interrupted
"""

_SAME = 1e-12


@dataclass(frozen=True)
class Replay:
    """One entry of a record, scored again.

    Attributes:
        name: Of the model.
        metrics: Metric name -> (recorded, now), those that differ.
        differences: (what, recorded, now): images, weights, certificate and versions that differ.
        compared: How many metrics were compared.
    """

    name: str
    metrics: dict[str, tuple[float, float]]
    differences: list[tuple[str, Any, Any]]
    compared: int


def replay(
    entry: Entry,
    images: ImageSet,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    limits: DecodeLimits = DecodeLimits(),
) -> Replay:
    """Score an entry's model again, by its own record, and compare.

    Args:
        entry: Of a document of `python -m eval.retrieval`.
        images: The images it was scored on.
        checkpoint: Its weights, where the record names a file.
        device: Where the network runs.
        limits: What one image may take to decode.

    Raises:
        DataError: the entry cannot be scored again: vectors were scored, or its weights are not named.
        TimmGamError: as `eval.evaluate`.
    """
    from eval.results.certificate import differences
    from eval.results.record import entry as record

    now = record(_score(entry, images, checkpoint, device, limits))
    found = differences(
        {"images": entry.data.fingerprint, "weights": entry.weights and entry.weights.sha256},
        {"images": now.data.fingerprint, "weights": now.weights and now.weights.sha256},
    )
    if entry.certificate is not None and now.certificate is not None:
        found += differences(entry.certificate.model_dump(), now.certificate.model_dump(), "preprocessing ")
    values = {
        name: (average.micro, now.metrics[name].micro) for name, average in entry.metrics.items() if name in now.metrics
    }
    moved = {name: pair for name, pair in values.items() if abs(pair[0] - pair[1]) > _SAME}
    return Replay(now.name, moved, found, len(values))


def _score(
    entry: Entry, images: ImageSet, checkpoint: Path | None, device: str, limits: DecodeLimits
) -> RetrievalResult:
    import torch

    from eval.evaluation.evaluate import evaluate
    from eval.results.result import Settings
    from timm_gam.data import choose_protocol
    from timm_gam.embed import EmbedSettings, recorded_views
    from timm_gam.images import Preprocessing
    from timm_gam.models import load_model
    from timm_gam.rerank import Recipe

    if entry.model is None or entry.weights is None or entry.preprocessing is None:
        raise DataError(f"'{entry.name}' was scored from vectors; only a model's record can be scored again")
    kind, reference = entry.weights.kind, entry.weights.reference
    if kind in ("checkpoint", "module") and checkpoint is None:
        raise DataError(f"'{entry.name}' was scored with {kind} '{reference}'; name its safetensors with --checkpoint")
    loaded = load_model(
        entry.model.architecture if checkpoint is not None else entry.model.name,
        checkpoint=checkpoint,
        pretrained=kind != "random",
        seed=int(reference.removeprefix("seed ")) if kind == "random" else 0,
    )
    if entry.model.head is not None and loaded.head is None:
        raise DataError(f"'{entry.name}' was scored with a head, which is not beside these weights; score it anew")
    embed = EmbedSettings(
        layer=entry.model.embedding_layer,
        batch_size=entry.timings.batch_size or 32,
        device=device,
        amp_dtype=None if entry.precision == "float32" else getattr(torch, entry.precision),
        on_unreadable="skip" if entry.data.unreadable else "raise",
        limits=limits,
        **recorded_views(entry.model.views),
    )
    recipe = Recipe()
    if (made := entry.recipe) is not None:
        whitening = None if made.whitening is None else made.whitening.dimensions
        recipe = Recipe(made.power, whitening, made.method, made.options, made.form == "transductive")
    settings = Settings(
        embed,
        distance=entry.protocol.distance,
        ks=sorted({int(name.partition("@")[2]) for name in entry.metrics if name.partition("@")[2].isdigit()}),
        intervals="none",
        recipe=recipe,
    )
    splits = entry.protocol.splits or ["all"]
    chosen = {"query_split": splits[0], "gallery_split": splits[-1]} if len(splits) == 2 else {"split": splits[0]}
    protocol = choose_protocol(images, entry.protocol.name, **chosen)
    preprocessing = Preprocessing(**dict(entry.preprocessing))
    return evaluate(loaded, images, protocol, preprocessing=preprocessing, settings=settings, progress=progress_bar)


def build_parser() -> CommandParser:
    """The parser of `python -m eval.replay`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m eval.replay", description="Score again by a record, and say what differs.", epilog=_EPILOG
    )
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD", help="JSON of eval.retrieval --results-file")
    add_image_options(parser)
    add("--checkpoint", type=Path, metavar="FILE", help="safetensors of an entry that was scored with a file")
    add("--model", metavar="NAME", help="only the entry of this model")
    add_measuring_options(parser)
    return parser


def _run(args: argparse.Namespace) -> bool:
    from timm_gam.core import versions
    from timm_gam.data import read_images

    check_results_file(args.results_file, args.record, args.data_dir)
    from eval.results.certificate import differences
    from eval.results.record import read_document

    document = read_document(args.record)
    entries = [entry for entry in document.results if args.model in (None, entry.name)]
    if not entries:
        raise DataError(
            f"no entry '{args.model}' in '{args.record}'; it has {', '.join(e.name for e in document.results)}"
        )
    if args.data_dir is None and args.dataset is None:
        raise DataError(f"name the images '{entries[0].data.name}' with --data-dir or --dataset: a record holds none")
    images = read_images(args.data_dir, args.dataset)
    limits = DecodeLimits.of(args)
    replays = [
        replay(entry, images, checkpoint=args.checkpoint, device=args.device, limits=limits) for entry in entries
    ]
    installed = versions()
    known = {name: installed.get(name) for name in document.versions}
    other = differences(document.versions, known, "version of ")
    content = [{**vars(one), "differences": [*one.differences, *other]} for one in replays]
    show(args.results_file, content, lambda: "\n\n".join(_text(one, other) for one in replays))
    return any(one.metrics for one in replays)


def _text(one: Replay, other: list[tuple[str, Any, Any]]) -> str:
    name = printable(one.name)
    same = f"{name}: all {one.compared} metrics are the same"
    moved = f"{name}: {len(one.metrics)} of {one.compared} metrics differ"
    lines = [moved if one.metrics else same]
    for name, (then, now) in sorted(one.metrics.items(), key=lambda item: -abs(item[1][0] - item[1][1]))[:6]:
        lines.append(f"  {name:<14} {100 * then:8.3f} recorded, {100 * now:8.3f} now ({100 * (now - then):+.3f})")
    lines += [printable(f"  {what}: {then} recorded, {now} now") for what, then, now in [*one.differences, *other]]
    return "\n".join(lines)


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
