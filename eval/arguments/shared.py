"""Options that several command lines of the evaluation share, and what they mean. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_gam.core import RunFolderError, check_outputs, number, write_json
from timm_gam.images import add_decoding_arguments

if TYPE_CHECKING:
    from timm_gam.train import Recipe


_OF_THE_DATA = ("data_dir", "dataset", "test_split", "max_scans", "max_decode_mb", "max_decode_seconds")


def add_image_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--data-dir and --dataset."""
    parser.add_argument("--data-dir", metavar="PATH", help="a folder of class folders of images, or local parquet")
    parser.add_argument("--dataset", metavar="ID", help="a Hub data set id[@revision], or 'synthetic' (drawn by code)")


cutoff = number(int, "a whole number from 1 to 10,000,000", 1, 10**7)
"""What reads -K: as `eval.scoring` takes it, whose discounts of nDCG@K are a table of K."""


def add_results_file(parser: argparse.ArgumentParser) -> None:
    """--results-file, as `show` and `check_results_file` take it."""
    parser.add_argument(
        "--results-file", metavar="FILE", help="write the numbers as JSON; '-' prints JSON instead of the table"
    )


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Where a network runs, where the numbers go, and what an image may take to decode."""
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    add_results_file(parser)
    add_decoding_arguments(parser)


def check_results_file(results_file: str | None, *inputs: str | Path | None) -> None:
    """Refuse a file that cannot be written, or is one of those read, before anything is computed.

    Raises:
        OutputError: it cannot be.
    """
    check_outputs(None if results_file in (None, "-") else Path(str(results_file)), inputs=inputs)


def show(
    results_file: str | None, content: Mapping[str, Any] | Sequence[Mapping[str, Any]], table: Callable[[], str]
) -> None:
    """Print the table and write the file where one is named, or print JSON alone for '-'."""
    if results_file == "-":
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    print(table())
    if results_file is not None:
        write_json(Path(results_file), content)
        print(f"\nwrote {results_file}")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe of --config, with what the command line says of the data over it.

    Raises:
        RecipeError: a value that is not legal.
        RunFolderError: no images are named.
    """
    from timm_gam.train import read_recipe, recipe_from

    values = read_recipe(args.config) if args.config else {}
    given = {name: getattr(args, name, None) for name in _OF_THE_DATA}
    values |= {name: value for name, value in given.items() if value is not None}
    recipe = recipe_from(values, f"'{args.config}'" if args.config else "the command line")
    if recipe.data_dir is None and recipe.dataset is None:
        raise RunFolderError("no images to train on; name them with --data-dir or --dataset")
    return recipe
