"""`timm-gam COMMAND`, also `python -m timm_gam COMMAND`: every command line of the project under one name.

Each command is the module beside it, run as `python -m` runs it, and imported only when asked for.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from timm_gam.core import CommandParser, print_error, run_command

COMMANDS = {
    "demo": ("eval.demo", "see it work on scenes drawn by code: no data, GPU or network"),
    "score": ("eval.retrieval", "how well models retrieve images: metrics, intervals, a page to look at"),
    "compare": ("eval.leaderboard.__main__", "many models side by side, with tied groups"),
    "tune": ("eval.tune", "the best way to rank a model's embeddings, chosen on validation images"),
    "report": ("eval.report.__main__", "a page of results that were kept"),
    "convert": ("eval.convert", "a kept result as qrels, run files or parquet for other programs"),
    "sensitivity": ("eval.sensitivity", "what each choice of preprocessing is worth for a model"),
    "audit": ("eval.audit.__main__", "embeddings or results of another program: are they sound?"),
    "gates": ("eval.gates", "how much a network's attention gates depend on the image, and what that is worth"),
    "search": ("timm_gam.search.__main__", "photographs in a folder that look like others, without labels"),
    "replay": ("eval.replay", "score again by a record, and say what differs"),
    "train": ("timm_gam.train.__main__", "train or resume a network"),
    "head": ("eval.head", "train a linear layer or MLP on a model's embeddings, in seconds, and score it"),
    "table1": ("eval.table1", "train and compare plain, SE, CBAM and GAM networks over seeds"),
    "export": ("timm_gam.export.__main__", "ONNX, torch.export or AOTInductor, compared with the model"),
    "publish": ("hub.publish", "put a trained network on the Hub"),
    "release": ("hub.release", "publish every run of a folder"),
    "dataset": ("hub.dataset", "put a folder of images on the Hub"),
    "space": ("hub.space", "put the search page of an index of photographs on the Hub"),
}
"""Command -> the module whose `main(argv)` it is, and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, or 2 with one line where there is no such command.

    >>> main(["--version"])
    timm-gam 0.1.0
    0
    """
    if argv is None:  # run as a program: a user's own eval.py, in the working folder or on PYTHONPATH, is not ours
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "--version"):
        return run_command(_print_version if name == "--version" else _print_help)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.lower(), COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        print_error(f"'{name}' is no command; {hint}legal: {', '.join(COMMANDS)}")
        return 2
    modules = {module.removesuffix(".__main__"): command for command, (module, _) in COMMANDS.items()}
    CommandParser.doors = {f"python -m {module}": f"timm-gam {command}" for module, command in modules.items()}
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(arguments[1:]))
    finally:
        CommandParser.doors = {}


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {purpose}" for command, (_, purpose) in COMMANDS.items()]
    print("usage: timm-gam COMMAND [options]\n\ncommands\n" + "\n".join(lines))
    print("\ntimm-gam COMMAND --help teaches by example; timm-gam --version says which release this is")


def _print_version() -> None:
    from importlib.metadata import version

    print(f"timm-gam {version('timm-gam')}")


if __name__ == "__main__":
    sys.exit(main())
