"""`python -m eval.transfer`: does attention help a network that was pretrained without it? `--help` teaches."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from eval.arguments.shared import add_image_options, recipe_of
from timm_gam.core import CommandParser, RecipeError, command, positive, print_line, seed
from timm_gam.images import add_decoding_arguments

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
  ResNet-50 on one GPU in seven minutes, images kept on it; every arm at one learning rate, its curve afterwards:
    python -m eval.transfer --family resnet50 --config benchmarks/transfer_resnet50.yaml --data-dir coreldb \\
      --pretrain-epochs 30 --pretrain-lr 0.1 --lrs 0.05 0.1 0.2 --common-lr 0.1 \\
      --resident --graphs --jobs 6 --controls --time-limit 420

Interrupted, or out of time? The same command goes on: records are kept; runs from files are resumed, resident ones
begin anew.
exit codes: 0 done, 2 bad input or a run that cannot go on, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.transfer`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m eval.transfer",
        description="Fine-tune plain, SE, CBAM and GAM networks from the same plain weights, and compare them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "--family",
        choices=("test_resnet", "resnet18", "resnet50"),
        default="test_resnet",
        help="(default: %(default)s)",
    )
    add("--config", type=Path, metavar="FILE", help="YAML recipe of the fine-tuning (default: the paper's)")
    add_image_options(parser)
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2, 3, 4], metavar="N", help="(default: 0 1 2 3 4)")
    add("--lrs", nargs="+", type=float, default=[0.02, 0.05, 0.125], metavar="LR", help="(default: 0.02 0.05 0.125)")
    add("--common-lr", type=float, metavar="LR", help="train every arm at this rate; --lrs come last, for the curve")
    add("--pretrain-epochs", type=positive, default=20, metavar="N", help="(default: %(default)s)")
    add("--pretrain-lr", type=float, default=0.05, metavar="LR", help="(default: %(default)s)")
    add("--controls", action="store_true", help="the control arms too")
    add("--jobs", type=positive, default=1, metavar="N", help="runs side by side, one thread each (default: 1)")
    add("--resident", action="store_true", help="keep all images on the device and augment there")
    add("--graphs", action="store_true", help="with --resident on a GPU: an update as CUDA graphs, where they agree")
    add("--time-limit", type=positive, metavar="SECONDS", help="begin no run after this; resident ones stop")
    add("--output", type=Path, default=Path("runs/transfer"), metavar="FOLDER", help="(default: %(default)s)")
    add_decoding_arguments(parser, only_given=True)
    return parser


def _run(args: argparse.Namespace) -> None:
    deadline = time.time() + args.time_limit if args.time_limit else float("inf")
    from eval.transfer.arms import arm_groups
    from eval.transfer.schedule import Experiment, write_data
    from eval.transfer.setting import Setting

    setting = Setting(
        recipe_of(args),
        args.pretrain_epochs,
        args.pretrain_lr,
        args.output,
        args.resident,
        args.graphs,
        deadline,
    )
    if args.graphs and not args.resident:
        raise RecipeError("--graphs came without --resident; a graph needs its images on the device")
    groups = arm_groups(args.family, controls=args.controls)
    experiment = Experiment(setting, list(dict.fromkeys(args.seeds)), args.lrs, print_line)
    for group in groups:
        experiment.check(group, args.common_lr)
    write_data(setting)
    with experiment.side_by_side(args.jobs):
        for group in groups:
            experiment.finish("pretrain", group)
            if args.common_lr is None:
                experiment.finish("tune", group)
            elif args.controls and group is groups[-1]:
                experiment.finish("tune", groups[0])
            experiment.finish("final", group, args.common_lr)
        if args.common_lr is not None:
            experiment.finish("tune", groups[0])
    if time.time() > setting.deadline:
        print_line(f"out of time; the same command goes on from '{setting.output}'")
    else:
        print_line(f"all is in '{setting.output}'; benchmarks/networks/transfer_table.py --pack compares the arms")


main = command(build_parser, _run, interrupted="interrupted; the same command goes on")

if __name__ == "__main__":
    sys.exit(main())
