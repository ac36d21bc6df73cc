"""The command line of `python -m timm_gam.train`: its options and their help. Imports nothing heavy."""

from __future__ import annotations

import argparse

from timm_gam.core import CommandParser
from timm_gam.images import add_decoding_arguments
from timm_gam.train.recipe import LOSSES, Recipe

_EPILOG = """\
Every other key of config.yaml can be set in the --config file: image_column, label_column, id_column, config_name,
image_root, val_share, momentum, clip_grad, sched, per_class, hflip, color_jitter, reprob, cutmix, save_every,
validate_every.
More than one device: torchrun --nproc-per-node N -m timm_gam.train ...; Table 1: python -m eval.table1.
exit codes: 0 trained, 2 bad input or a run that cannot go on (one line says why), 130 or 143 interrupted, saved
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m timm_gam.train`; only what was given is in its result, for a recipe to check."""
    d = Recipe()
    parser = CommandParser(
        prog="python -m timm_gam.train",
        description="Fine-tune a timm model for image retrieval, by the paper's recipe unless told otherwise.",
        usage="%(prog)s --data-dir PHOTOS [options]",
        epilog=_EPILOG,
        width=120,
        argument_default=argparse.SUPPRESS,
    )
    _add_run_arguments(parser, d)
    _add_recipe_arguments(parser, d)
    _add_computing_arguments(parser, d)
    add_decoding_arguments(parser)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser, d: Recipe) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"any timm model ({d.model})")
    add(
        "--start-from",
        dest="start",
        metavar="FROM",
        help=f"{d.start}, scratch, a pretrained name, hf-hub:, local-dir:, FILE.safetensors ({d.start})",
    )
    add("--start", help=argparse.SUPPRESS)  # the old name, which torchrun takes for its --start-method
    add("--gate-init", choices=("paper", "identity"), help=f"of new attention layers ({d.gate_init})")
    add("--data-dir", metavar="PATH", help="a folder of class folders of images, or parquet files")
    add("--dataset", metavar="ID", help="a Hub data set id[@revision], or 'synthetic'")
    add("--test-split", metavar="SPLIT", help="the split scored once at the end, or none (test, where there is one)")
    add("--output", metavar="FOLDER", help="the run folder (runs/MODEL-SEED)")
    add("--resume", metavar="FOLDER", help="go on with the run in this folder, by its own recipe")
    add("--config", metavar="FILE", help="YAML under the command line; a run's config.yaml is one")


def _add_recipe_arguments(parser: argparse.ArgumentParser, d: Recipe) -> None:
    add = parser.add_argument
    add("--epochs", metavar="N", help=f"({d.epochs})")
    add("-b", "--batch-size", metavar="N", help=f"over all devices ({d.batch_size})")
    add("--accumulate", metavar="N", help=f"batches per update ({d.accumulate})")
    add("--opt", metavar="NAME", help=f"any of timm's optimizers ({d.opt})")
    add("--lr", metavar="RATE", help=f"at its peak ({d.lr})")
    add("--attention-lr-scale", metavar="X", help=f"learning rate of attention layers ({d.attention_lr_scale:g})")
    add("--weight-decay", metavar="X", help=f"({d.weight_decay:g})")
    add("--warmup-epochs", metavar="N", help=f"({d.warmup_epochs})")
    add("--loss", choices=LOSSES, help=f"the last two need the extra 'metric-learning' ({d.loss})")
    add("--label-smoothing", metavar="X", help=f"({d.label_smoothing:g})")
    add("--drop-path", metavar="X", help=f"({d.drop_path:g})")
    add("--freeze", nargs="+", metavar="PREFIX", help="parameters by prefix; backbone: all but attention, classifier")
    add("--ema-decay", metavar="X", help="validate and keep averaged weights (off)")
    add("--img-size", metavar="PIXELS", help="side of the square input (the model's own)")
    add("--scale", nargs=2, metavar=("LOW", "HIGH"), help=f"area of random crops ({d.scale[0]} {d.scale[1]})")
    add("--aa", metavar="POLICY", help="timm's auto augment, such as rand-m9-mstd0.5 (off)")
    add("--mixup", metavar="ALPHA", help="(off)")


def _add_computing_arguments(parser: argparse.ArgumentParser, d: Recipe) -> None:
    add = parser.add_argument
    add("--device", help="cpu, cuda, ... (cuda where there is one)")
    add("-j", "--workers", metavar="N", help="loader processes (by device)")
    add("--amp", action="store_true", help="mixed precision")
    add("--amp-dtype", choices=("bfloat16", "float16"), help=f"({d.amp_dtype})")
    add("--channels-last", action="store_true", help="memory layout")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="use torch.compile")
    add("--cache-images", metavar="MB", help=f"decoded images kept in memory ({d.cache_images})")
    add("--seed", metavar="N", help=f"({d.seed})")
    add("--deterministic", action="store_true", help="deterministic kernels")
