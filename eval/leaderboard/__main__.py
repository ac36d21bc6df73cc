"""`python -m eval.leaderboard`: many models on one image set, and a page that orders them. `--help` by example."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.shared import add_image_options
from timm_gam.core import CommandParser, DataError, print_line, printable, run_command, write_text

if TYPE_CHECKING:
    from eval.leaderboard.runs import Run

_EPILOG = """\
examples
  every ResNet with pretrained weights, each in a process of its own:
    python -m eval.leaderboard --model 'resnet*.*' --data-dir photos --output board
  options of eval.retrieval go behind --:
    python -m eval.leaderboard --model resnet50.a1_in1k resnet50_se.a1_in1k --data-dir photos -- --optimize

In the folder: MODEL.safetensors for each model, results.csv as timm keeps results, leaderboard.html with rank intervals
and tied groups. Interrupted? The same command goes on. A model that cannot be had, or does not fit into memory, is
listed with its reason.
exit codes: 0 written, 2 bad input or no model scored (one line says why), 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 written, 2 bad input, 130 interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    own, rest = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = CommandParser(
        prog="python -m eval.leaderboard",
        description="Score many models on one image set and order them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--model", nargs="+", required=True, metavar="NAME", help="timm models; * and ? match pretrained names")
    add_image_options(parser.add_mutually_exclusive_group(required=True))
    add("--output", type=Path, default=Path("leaderboard"), metavar="FOLDER", help="(default: %(default)s)")
    add("--metric", default="map", help="orders the models (default: map)")
    args = parser.parse_args(own)
    return run_command(lambda: _run(args, rest), interrupted="interrupted; the same command goes on")


def _run(args: argparse.Namespace, rest: list[str]) -> None:
    from eval.arguments.model_choices import is_pattern, matching_names
    from eval.leaderboard.page import write_page
    from eval.leaderboard.runs import run_models
    from eval.tables.export import results_csv
    from eval.tables.metric_tables import model_warnings
    from eval.tables.standings import standings

    data = ["--data-dir", str(Path(args.data_dir).resolve())] if args.data_dir else ["--dataset", args.dataset]
    tagged = [f"{name}.*" if is_pattern(name) and "." not in name else name for name in args.model]
    models = list(dict.fromkeys(match for name in tagged for match in matching_names(name)))
    print_line(f"{len(models)} models, into {args.output}")
    runs = run_models(models, [*data, *rest], args.output, on_run=_log_run)
    results = [run.result for run in runs if run.result is not None]
    if not results:
        raise DataError(f"none of {len(runs)} models could be scored; the first: {runs[0].reason}")
    order = standings(results, args.metric)
    page, table = args.output / "leaderboard.html", args.output / "results.csv"
    write_page(page, runs, order, args.metric)
    write_text(table, results_csv(results))
    for one in order:
        low, high = one.place_interval
        print_line(
            f"{one.place:>4}  {100 * one.value:6.2f}  {one.group:<4} rank {low} to {high}  {printable(one.result.name)}"
        )
    for line in model_warnings(results):
        print_line(f"warning: {printable(line)}")
    print_line(f"wrote {page} and {table}")


def _log_run(run: Run) -> None:
    print_line(printable(f"{run.model}: " + (f"not scored: {run.reason}" if run.result is None else f"{run.result!r}")))


if __name__ == "__main__":
    sys.exit(main())
