"""The options of how embeddings are ranked, for every command that has them. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from timm_gam.core import positive

if TYPE_CHECKING:
    from timm_gam.rerank.recipe import Recipe


def add_rerank_arguments(parser: argparse.ArgumentParser) -> None:
    """--power, --whiten, --rerank and --transductive."""
    group = parser.add_argument_group("better rankings of the same embeddings (docs/RERANKING.md)")
    group.add_argument(
        "--power",
        type=float,
        default=1.0,
        metavar="P",
        help="raise every component to this power, its sign kept; 0.5 takes the root (default: 1)",
    )
    group.add_argument(
        "--whiten",
        type=positive,
        metavar="D",
        help="whiten to D dimensions, fitted on training images that are no queries; to keep it with a model: timm-gam "
        "head --loss whitening",
    )
    group.add_argument(
        "--rerank",
        metavar="METHOD",
        help="qe (alpha query expansion), dba (database augmentation), diffusion (a walk over the neighbour graph) or "
        "k-reciprocal, with options: qe:neighbours=10,alpha=3 dba:neighbours=20,alpha=3 "
        "diffusion:neighbours=20,gamma=3,alpha=0.99,steps=20,mix=0.01 k-reciprocal:neighbours=20,local=6,mix=0.3 "
        "(these are the defaults)",
    )
    group.add_argument(
        "--transductive",
        action="store_true",
        help="with --rerank: let queries help the gallery in which they are ranked; faster. Default: the strict form, "
        "in which a query's own image helps nobody",
    )


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """What was chosen.

    Raises:
        DataError: no such method or option, or a value outside its range.
    """
    from timm_gam.rerank.recipe import Recipe, read_method

    method, options = (None, {}) if args.rerank is None else read_method(args.rerank)
    return Recipe(args.power, args.whiten, method, options, args.transductive)
