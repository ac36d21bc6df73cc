"""`python -m eval.transfer`: does attention help a network that was pretrained without it? `--help` teaches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timm_gam.core import CommandParser, RunFolderError, positive, print_line, run_command, seed

if TYPE_CHECKING:
    from eval.transfer.runs import Setting

_EPILOG = """\
what is done
  1 pretrain the plain network on half of the classes (the published class split), once per seed
  2 tune every arm on the other half: one run per learning rate, judged by validation alone
  3 train every arm with its best rate, once per seed, from that seed's pretraining; score the test split
  arms: plain; SE, CBAM and GAM with identity gates (an exact no-op at the start) and with their usual random ones
  --controls adds a plain network of GAM's size, and all gated arms with attention at the common learning rate

examples
  the committed experiment on one core:
    python -m eval.transfer --config benchmarks/transfer.yaml --data-dir coreldb --output runs/transfer
  two runs side by side, controls too:
    python -m eval.transfer --config benchmarks/transfer.yaml --data-dir coreldb --controls --jobs 2

Interrupted? The same command goes on: records are kept, unfinished runs are resumed.
exit codes: 0 done, 2 bad input or a run that cannot go on, 130 interrupted with its state saved
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 or 143 interrupted."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), interrupted="interrupted; the same command goes on")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m eval.transfer",
        description="Fine-tune plain, SE, CBAM and GAM networks from the same plain weights, and compare them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--family", choices=("test_resnet", "resnet18"), default="test_resnet", help="(default: %(default)s)")
    add("--config", type=Path, metavar="FILE", help="YAML recipe of the fine-tuning (default: the paper's)")
    add("--data-dir", metavar="PATH", help="a folder of class folders of images, or parquet files")
    add("--dataset", metavar="ID", help="a Hub data set id[@revision], or 'synthetic'")
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2, 3, 4], metavar="N", help="(default: 0 1 2 3 4)")
    add("--lrs", nargs="+", type=float, default=[0.02, 0.05, 0.125], metavar="LR", help="(default: 0.02 0.05 0.125)")
    add("--pretrain-epochs", type=positive, default=20, metavar="N", help="(default: %(default)s)")
    add("--pretrain-lr", type=float, default=0.05, metavar="LR", help="(default: %(default)s)")
    add("--controls", action="store_true", help="the control arms too")
    add("--jobs", type=positive, default=1, metavar="N", help="runs side by side, one thread each (default: 1)")
    add("--output", type=Path, default=Path("runs/transfer"), metavar="FOLDER", help="(default: %(default)s)")
    return parser


def _run(args: argparse.Namespace) -> None:
    from eval.transfer.arms import control_arms, main_arms
    from eval.transfer.schedule import run_experiment

    setting = _setting(args)
    groups = [main_arms(args.family), *([control_arms(args.family)] if args.controls else [])]
    for arms in groups:
        run_experiment(setting, arms, list(dict.fromkeys(args.seeds)), args.lrs, jobs=args.jobs, say=print_line)


def _setting(args: argparse.Namespace) -> Setting:
    from eval.transfer.runs import Setting
    from timm_gam.train import read_recipe, recipe_from

    given = {"data_dir": args.data_dir, "dataset": args.dataset}
    values = {**(read_recipe(args.config) if args.config else {}), **{k: v for k, v in given.items() if v is not None}}
    recipe = recipe_from(values, f"'{args.config}'" if args.config else "the command line")
    if recipe.data_dir is None and recipe.dataset is None:
        raise RunFolderError("no images to train on; name them with --data-dir or --dataset")
    return Setting(recipe, args.pretrain_epochs, args.pretrain_lr, args.output)


if __name__ == "__main__":
    sys.exit(main())
