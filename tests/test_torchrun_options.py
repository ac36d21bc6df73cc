"""torchrun abbreviates: an option of ours that is the beginning of one of its own would never reach us."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from torch.distributed.run import get_args_parser

import eval.arguments.retrieval
import eval.table1
import timm_gam.train

COMMANDS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "timm_gam.train": timm_gam.train.build_parser,
    "eval.table1": eval.table1.build_parser,
    "eval.retrieval": eval.arguments.retrieval.build_parser,
}


def arrives(module: str, typed: list[str]) -> bool:
    """Whether torchrun hands on what was typed, as it was typed."""
    try:
        args = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", module, *typed])
    except SystemExit:
        return False
    return args.training_script == module and args.training_script_args == typed


@pytest.mark.parametrize("module", COMMANDS)
def test_every_option_arrives_as_typed(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    actions = [a for a in COMMANDS[module]()._actions if a.help != argparse.SUPPRESS]
    options = [option for action in actions for option in action.option_strings]
    assert len(options) > 5
    for option in options:
        for typed in (
            [option],
            [option, "value"],
            [f"{option}=value"],
            ["--data-dir", "x", option, "value", "-j", "2"],
        ):
            assert arrives(module, typed), f"torchrun -m {module} {' '.join(typed)}"
    assert not arrives("timm_gam.train", ["--start", "scratch"]), "the hidden old name is why this test exists"
