"""The command line of `python -m eval.retrieval`: its options, their help, and which go together.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from eval.arguments.shared import add_image_options, cutoff
from timm_gam.core import CommandParser, count, positive, seed
from timm_gam.embed import add_view_arguments
from timm_gam.images import add_decoding_arguments, add_preprocessing_arguments
from timm_gam.rerank import add_rerank_arguments

_EPILOG = """\
examples
  score a timm model on a folder of class folders, every image a query against all others:
    python -m eval.retrieval --model resnet50.a1_in1k --data-dir photos
  compare models side by side, with the columns of the paper's Table 1, and keep the numbers:
    python -m eval.retrieval --model resnet50 resnet50_se.a1_in1k --data-dir photos --paper-table \\
        --results-file results.json
  a data set on the Hub, held-out test images as queries against the training images:
    python -m eval.retrieval --model resnet50_gam --dataset timm-gam/corel --protocol query-gallery
  pretrained names, your own weights and a training run in one table, ranked by hit@10:
    python -m eval.retrieval --model resnet50.a1_in1k resnet50_gam=best.safetensors runs/a --data-dir photos \\
        --rank-by hit@10
  your own weights; embeddings kept, so that the next protocol costs seconds:
    python -m eval.retrieval --model resnet50_gam --checkpoint model.safetensors --data-dir photos --cache-dir cache
  many images: the network prepared for this machine, in mixed precision:
    python -m eval.retrieval --model resnet50_gam --data-dir photos --optimize --amp
  a page to look at, in one file:
    python -m eval.retrieval --model resnet50.a1_in1k --data-dir photos --report report.html
  more from the same network: two views of each image, and a walk over the neighbour graph against the plain ranking:
    python -m eval.retrieval --model resnet50.a1_in1k --data-dir photos --tta flip --power 0.5 --rerank diffusion
  nothing at all: the GAM model on COREL where the Hub can be reached, else an embedded default:
    python -m eval.retrieval

exit codes: 0 scored, 2 bad input (one line says what is legal), 130 interrupted
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, as strings and numbers; an illegal one, or one that would do nothing, exits with one line and 2."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.gallery_dir is not None and args.protocol not in (None, "query-gallery"):
        parser.error(f"--gallery-dir came with --protocol {args.protocol}; it is for query-gallery only")
    if args.gallery_dir is not None or args.protocol == "query-gallery":
        _refuse(parser, args, ["--split"], "query-gallery has two splits: --query-split and --gallery-split")
    else:
        _refuse(parser, args, ["--query-split", "--gallery-split"], "name --protocol query-gallery with it")
    if args.gallery_dir is not None:
        _refuse(parser, args, ["--query-split", "--gallery-split"], "--gallery-dir ranks all of it for all of the data")
    if args.data_dir is not None and args.streaming:
        parser.error("--streaming came with --data-dir; it is for --dataset only")
    if args.optimize and (args.channels_last or args.torchcompile is not None):
        parser.error("--optimize came with --channels-last or --torchcompile; it chooses and compiles by itself")
    if args.optimize and args.scales != (1.0,):
        parser.error("--optimize came with --scales; it prepares the network for one size of input")
    if args.transductive and args.rerank is None:
        parser.error("--transductive came without --rerank, which it is a form of")
    if args.rerank is not None and args.distance != "cosine":
        parser.error(f"--rerank came with --distance {args.distance}; it is over cosine similarity only")
    if (args.pool or args.stages) and args.layer == "pre_logits":
        parser.error("--pool or --stages came with --layer pre_logits; they pool feature maps: leave --layer out")
    return args


def _refuse(parser: argparse.ArgumentParser, args: argparse.Namespace, options: Sequence[str], reason: str) -> None:
    for option in options:
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value is not None:
            parser.error(f"{option} {value} would do nothing here: {reason}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.retrieval`."""
    parser = CommandParser(
        prog="python -m eval.retrieval",
        description="Score how well timm models retrieve images: embeddings, exact ranking, metrics with intervals.",
        epilog=_EPILOG,
    )
    _add_model_arguments(parser)
    _add_data_arguments(parser)
    _add_protocol_arguments(parser)
    add_rerank_arguments(parser)

    image = add_preprocessing_arguments(parser)
    image.add_argument(
        "--shrink-on-load",
        action="store_true",
        help="let the JPEG decoder reduce photos 8 times as large as the input; faster, and scores move as by rounding",
    )

    add_decoding_arguments(parser)
    _add_computing_arguments(parser)
    _add_output_arguments(parser)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        nargs="+",
        metavar="NAME",
        help="timm models: a name, name.tag, hf-hub:org/repo[@revision], local-dir:folder, NAME=FILE.safetensors, or a "
        "run folder; * and ? match registered models that have weights (default: resnet50_gam)",
    )
    model.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        help="safetensors weights, one file per --model in the same order; a classifier may be missing",
    )
    model.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without --checkpoint: the model's pretrained weights, or --no-pretrained for random ones (see --seed)",
    )
    model.add_argument(
        "--layer",
        choices=("pooled", "pre_logits"),
        default="pooled",
        help="embedding: the pooled feature map, or the input of the classifier (default: %(default)s)",
    )
    add_view_arguments(model)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    add_image_options(data)
    data.add_argument(
        "--gallery-dir", metavar="PATH", help="rank this folder (or parquet) for every image of --data-dir or --dataset"
    )
    data.add_argument("--split", help="split to score: all, train, test or the data's own (default: all)")
    data.add_argument("--streaming", action="store_true", help="read a Hub data set without downloading it first")
    data.add_argument("--image-column", metavar="NAME", help="of a Hub data set or parquet (default: found by type)")
    data.add_argument("--label-column", metavar="NAME", help="likewise")
    data.add_argument(
        "--id-column", metavar="NAME", help="likewise (default: 'id' where there is one); none: number the rows"
    )
    data.add_argument("--config-name", metavar="NAME", help="configuration of a Hub data set that has several")
    data.add_argument(
        "--image-root", metavar="FOLDER", help="local parquet may name images below this folder, besides its own"
    )
    data.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be decoded, and count them in the results (default: stop at the first)",
    )


def _add_protocol_arguments(parser: argparse.ArgumentParser) -> None:
    protocol = parser.add_argument_group("protocol")
    protocol.add_argument(
        "--protocol",
        choices=("leave-one-out", "query-gallery", "class-disjoint"),
        help="who is ranked for whom (default: leave-one-out; query-gallery with --gallery-dir)",
    )
    protocol.add_argument("--query-split", metavar="SPLIT", help="of query-gallery (default: test)")
    protocol.add_argument("--gallery-split", metavar="SPLIT", help="of query-gallery (default: train)")
    protocol.add_argument(
        "--distance", choices=("cosine", "euclidean"), default="cosine", help="between embeddings (default: cosine)"
    )
    protocol.add_argument(
        "-k", nargs="+", type=cutoff, default=[1, 5, 10, 12, 20], metavar="K", help="cutoffs (default: 1 5 10 12 20)"
    )


def _add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    compute = parser.add_argument_group("computing")
    compute.add_argument("-b", "--batch-size", type=positive, default=32, metavar="N", help="(default: %(default)s)")
    compute.add_argument("-j", "--workers", type=count, metavar="N", help="decoding processes (default: by device)")
    compute.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)")
    compute.add_argument("--amp", action="store_true", help="mixed precision; faster, and scores move a little")
    compute.add_argument("--amp-dtype", choices=("bfloat16", "float16"), default="bfloat16", help="(default: bfloat16)")
    compute.add_argument("--channels-last", action="store_true", help="memory layout; often faster")
    compute.add_argument("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="use torch.compile")
    compute.add_argument(
        "--optimize",
        action="store_true",
        help="prepare the network for this machine: batch norms folded, weights frozen, layout chosen, compiled",
    )
    compute.add_argument("--cache-dir", type=Path, metavar="FOLDER", help="keep embeddings here and reuse them")
    compute.add_argument(
        "--memory-budget", type=positive, default=768, metavar="MB", help="for ranking (default: %(default)s)"
    )
    compute.add_argument("--seed", type=seed, default=0, help="of random weights (default: 0)")
    compute.add_argument(
        "--interval",
        choices=("auto", "queries", "images", "classes", "none"),
        default="auto",
        help="what the 95%% intervals are for: other queries against the same gallery, other images of the same "
        "classes (queries and gallery change), other classes, or none (default: images in leave-one-out, else queries)",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--results-file",
        metavar="FILE",
        help="write the results as its suffix says: .json (all there is), .csv, .md or .parquet; '-' prints JSON "
        "instead of the table",
    )
    output.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page to look at: queries, what was found, why, and where it errs",
    )
    output.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="keep the result and what it ranked, for eval.report, eval.convert, eval.audit and Python; of several "
        "models one file each, with the model's name",
    )
    output.add_argument(
        "--per-query", type=Path, metavar="FILE", help="write the metrics of each query as .csv or .parquet"
    )
    output.add_argument(
        "--all-metrics", action="store_true", help="print every metric (default: six), models side by side"
    )
    output.add_argument(
        "--rank-by", default="map", metavar="METRIC", help="orders several models and marks ties (default: %(default)s)"
    )
    output.add_argument("--per-class", action="store_true", help="also print a table per class")
    output.add_argument("--paper-table", action="store_true", help="also print the columns of the paper's Table 1")
