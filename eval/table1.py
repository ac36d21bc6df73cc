"""`python -m eval.table1`: the paper's Table 1 on your images, in one command. `--help` teaches by example.

Plain, SE, CBAM and GAM with the same data, budget and seeds: trains the runs that are missing, scores the test split
with each run's best weights, and writes the table with spreads, intervals and tests beside the paper's columns.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.shared import add_image_options, recipe_of
from timm_gam.core import CommandParser, RunFolderError, command, print_line
from timm_gam.images import add_decoding_arguments
from timm_gam.train import COMPUTE_KEYS, Recipe, RunFolder, read_recipe, recipe_from

if TYPE_CHECKING:
    from eval.tables.table1 import Runs

_FAMILIES = ("resnet50", "resnet18", "resnet34", "resnet101", "test_resnet")
_VARIANTS = ("", "_se", "_cbam", "_gam")

_EPILOG = """\
examples
  the paper's experiment: 12 runs of 200 epochs from ImageNet weights, then table1.md and table1.json in runs/table1:
    python -m eval.table1 --data-dir photos
  a small one, on a CPU, by a recipe of your own (keys as in a run's config.yaml):
    python -m eval.table1 --family test_resnet --config tiny.yaml --data-dir photos --output runs/tiny
  compare any finished runs in a folder, named NAME-SEED, and train nothing:
    python -m eval.table1 --collect --output runs/ablation

Interrupted? The same command goes on: finished runs are kept, an unfinished one is resumed.
exit codes: 0 written, 2 bad input or a run that cannot go on, 130 interrupted with its state saved
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.table1`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m eval.table1",
        description="Train, score and compare plain, SE, CBAM and GAM networks.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--family", choices=_FAMILIES, default="resnet50", help="the plain network (default: %(default)s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="one run each (default: 0 1 2)")
    add("--config", type=Path, metavar="FILE", help="YAML recipe of all runs (default: the paper's)")
    add_image_options(parser)
    add("--test-split", metavar="SPLIT", help="the split to compare on (default: test)")
    add("--output", type=Path, default=Path("runs/table1"), metavar="FOLDER", help="(default: %(default)s)")
    add("--collect", action="store_true", help="train nothing: compare the finished runs in --output")
    add_decoding_arguments(parser, only_given=True)
    return parser


def _run(args: argparse.Namespace) -> None:
    runs = _collect(args.output) if args.collect else _train_missing(args)
    from eval.tables.table1 import write_table
    from timm_gam.core import usable_device

    device = usable_device(next(iter(runs.values()))[0][1].device)
    print("\n" + write_table(args.output, runs, str(device)))
    print(f"\nwrote {args.output / 'table1.md'} and {args.output / 'table1.json'}")


def _train_missing(args: argparse.Namespace) -> Runs:
    from eval.tables.table1 import refuse_other_training
    from timm_gam.train import read_training_data

    recipe = recipe_of(args)
    read_training_data(recipe).split.needed_test()
    runs: Runs = {}
    for seed in dict.fromkeys(args.seeds):
        for variant in _VARIANTS:
            model = f"{args.family}{variant}"
            wanted = replace(recipe, model=model, seed=seed, gate_init=recipe.gate_init if variant else "paper")
            folder = RunFolder(args.output / f"{model}-{seed}")
            runs.setdefault(model, []).append((folder, _finished(folder, wanted)))
            refuse_other_training(folder for members in runs.values() for folder, _ in members)
    return runs


def _finished(folder: RunFolder, wanted: Recipe) -> Recipe:
    """The recipe of the run in `folder`, trained, resumed or found there."""
    from eval.evaluation.evaluator import RetrievalEvaluator
    from timm_gam.train import train

    if folder.config.exists():
        recipe = recipe_from(read_recipe(folder.config), f"'{folder.config}'")
        for key in (f.name for f in fields(Recipe) if f.name not in COMPUTE_KEYS):
            if getattr(recipe, key) != getattr(wanted, key):
                raise RunFolderError(
                    f"'{folder.path}' was trained with {key} = {getattr(recipe, key)!r}, not {getattr(wanted, key)!r}: "
                    "name another --output, or the same recipe"
                )
        if folder.evaluation.exists():
            return recipe
    resume = folder.state.exists()
    print(f"{'resuming' if resume else 'training'} {folder.path}", flush=True)
    train(wanted, folder.path, RetrievalEvaluator(), resume=resume, log=print_line)
    return wanted


def _collect(output: Path) -> Runs:
    runs: Runs = {}
    for path in sorted(output.iterdir()) if output.is_dir() else []:
        folder = RunFolder(path)
        name, dash, seed = path.name.rpartition("-")
        if folder.evaluation.exists() and dash and seed.isdigit():
            recipe = recipe_from(read_recipe(folder.config), f"'{folder.config}'")
            runs.setdefault(name, []).append((folder, recipe))
    if not runs:
        raise RunFolderError(f"'{output}' holds no finished runs named NAME-SEED; train some, or name another --output")
    return runs


main = command(build_parser, _run, interrupted="interrupted; the same command goes on")

if __name__ == "__main__":
    sys.exit(main())
