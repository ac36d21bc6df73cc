"""`timm-gam head`, also `python -m eval.head`: train a head on a model's embeddings and score it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.embedding import add_embedding_options, read_embedding_options
from timm_gam.core import CommandParser, check_outputs, command, count, positive, progress_bar, seed

if TYPE_CHECKING:
    from eval.results.result import RetrievalResult, Settings
    from timm_gam.data import ImageSet, Protocol
    from timm_gam.embed import Head
    from timm_gam.images import Preprocessing
    from timm_gam.models import LoadedModel
    from timm_gam.train import HeadRecipe

_EPILOG = """\
examples
  train on split train, score on split test, keep the head:
    timm-gam head --model resnet50.a1_in1k --data-dir photos --output head.safetensors
  then it is the last layer wherever the model is used, and is published with it:
    timm-gam score --model resnet50.a1_in1k --head head.safetensors --data-dir photos --split test
    timm-gam search index holiday --model resnet50.a1_in1k --head head.safetensors
    timm-gam publish resnet50_gam --checkpoint runs/resnet50_gam-0 --head head.safetensors
  would it help with classes it has not seen? Train on half of the classes, score on the other half:
    timm-gam head --model resnet50.a1_in1k --data-dir photos --output head.safetensors --protocol class-disjoint
  without labels, PCA-whitening to 256 dimensions:
    timm-gam head --model resnet50.a1_in1k --data-dir photos --output head.safetensors --loss whitening --dim 256

exit codes: 0 trained and scored, 2 bad input (one line says what is legal), 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `timm-gam head`."""
    parser = CommandParser(
        "timm-gam head", "Train a linear layer or MLP on frozen embeddings, in seconds, and score it.", _EPILOG
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the head, as .safetensors")
    add_embedding_options(parser, head=False)
    parser.add_argument(
        "--protocol",
        choices=("leave-one-out", "query-gallery", "class-disjoint"),
        default="leave-one-out",
        help="what is scored: split test among itself, against split train, or held-out classes; training is on the "
        "rest (default: %(default)s)",
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--loss",
        choices=("whitening", "cross-entropy", "arcface", "proxy-anchor"),
        default="proxy-anchor",
        help="all but whitening need the extra 'metric-learning' (default: %(default)s)",
    )
    training.add_argument(
        "--hidden", type=count, default=1024, metavar="N", help="units of the MLP; 0: one linear layer (%(default)s)"
    )
    training.add_argument("--dim", type=positive, default=512, metavar="N", help="that come out (%(default)s)")
    training.add_argument("--epochs", type=positive, default=20, metavar="N", help="(%(default)s)")
    training.add_argument("-b", "--batch-size", type=positive, default=256, metavar="N", help="(%(default)s)")
    training.add_argument("--lr", type=float, default=1e-3, metavar="RATE", help="of AdamW (%(default)s)")
    training.add_argument(
        "--power", type=float, default=0.5, metavar="P", help="of the embeddings that go in; 1: as they are (0.5)"
    )
    training.add_argument("--seed", type=seed, default=0, help="(%(default)s)")
    parser.add_argument("--results-file", type=Path, metavar="FILE", help="write both results: .json, .csv, .md")
    return parser


def _run(args: argparse.Namespace) -> None:
    from eval.results.files import RESULTS_SUFFIXES, check_suffix, write_results
    from eval.tables.metric_tables import model_table, percent, summary
    from timm_gam.data import choose_protocol, read_images
    from timm_gam.train import HeadRecipe

    check_outputs(args.output, args.results_file, inputs=[args.checkpoint, args.data_dir])
    check_suffix(args.output, (".safetensors",))
    if args.results_file is not None:
        check_suffix(args.results_file, RESULTS_SUFFIXES)
    recipe = HeadRecipe(
        args.loss, args.hidden, args.dim, args.epochs, args.batch_size, args.lr, power=args.power, seed=args.seed
    )
    images = read_images(args.data_dir, args.dataset)
    split = {"split": "test"} if args.protocol == "leave-one-out" else {}
    protocol = choose_protocol(images, args.protocol, **split)
    loaded, preprocessing, settings = read_embedding_options(args)
    head, plain, better = train_and_score(loaded, images, protocol, recipe, preprocessing, settings)
    head.save(args.output)
    print(f"head      {args.loss}, {' -> '.join(map(str, head.layers))}, on {head.facts.trained_on}")
    print(summary(plain))
    print(model_table([plain, better]))
    compared = better.compare(plain)
    print(f"\nmap {percent(compared.difference, compared.interval, '+.2f')} points, p {compared.p:.2g}; ", end="")
    print(f"{compared.won} queries won, {compared.lost} lost")
    if args.results_file is not None:
        write_results([plain, better], args.results_file, "map", [])
    print(f"\nwrote {', '.join(str(path) for path in (args.output, args.results_file) if path is not None)}")


def train_and_score(
    loaded: LoadedModel,
    images: ImageSet,
    protocol: Protocol,
    recipe: HeadRecipe,
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
) -> tuple[Head, RetrievalResult, RetrievalResult]:
    """Train a head on the training images of a protocol and score it, and the embeddings without it.

    Args:
        loaded: A model, its own head left out.
        images: The image set.
        protocol: What is scored; `timm_gam.data.training_rows` of it are trained on.
        recipe: How the head is trained.
        preprocessing: Default: the model's own data config.
        settings: How images are embedded and rankings scored; default `Settings()`.

    Returns:
        The head, the result without it, and the result with it.

    Raises:
        TimmGamError: nothing to train on, or any of the errors of `eval.evaluate`.
    """
    import numpy as np
    import torch

    from eval.evaluation.embedded_images import embed_for, embed_rows
    from eval.evaluation.ranked_result import ranked_result
    from eval.results.result import Settings
    from timm_gam.core import ALONE
    from timm_gam.data import training_rows
    from timm_gam.embed import Embedder
    from timm_gam.train import train_head

    settings = settings or Settings()
    embedder = Embedder(loaded, preprocessing, settings.embed)
    rows, trained_on = training_rows(images, protocol)
    known, _ = embed_rows(embedder, images, rows, settings, progress_bar, ALONE)
    embedded = embed_for(embedder, images, protocol, settings, progress_bar, ALONE)
    head = train_head(
        torch.from_numpy(np.array(known.vectors)),
        torch.from_numpy(images.labels[known.rows]),
        recipe,
        progress=progress_bar,
        weights=loaded.info.weights.sha256,
        layer=settings.embed.layer,
        views=settings.embed.views,
        trained_on=f"{trained_on}, of {images.name}",
    )
    plain = ranked_result(embedded.ranking, settings, embedded.facts, images=images, progress=progress_bar)
    with torch.inference_mode():
        vectors = head(torch.from_numpy(np.array(embedded.embeddings.vectors))).numpy()
    embedder.head = head
    embedder.loaded = replace(loaded, info=replace(loaded.info, name=f"{loaded.info.name} + head"))
    changed = replace(embedded, embeddings=replace(embedded.embeddings, vectors=vectors))
    better = ranked_result(changed.ranking, settings, changed.facts, images=images, progress=progress_bar)
    return head, plain, better


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
