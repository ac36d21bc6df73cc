"""`python -m eval.report`: a page of results that were kept with --save. `--help` teaches by example."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.arguments.shared import add_image_options
from timm_gam.core import CommandParser, check_outputs, command, interrupts_exit
from timm_gam.images import add_decoding_arguments

_EPILOG = """\
examples
  a page of one result, with the photographs it was made from:
    python -m eval.report result.safetensors --data-dir photos
  two models against each other, ordered by precision@10:
    python -m eval.report a.safetensors b.safetensors --data-dir photos --rank-by precision@10 --output both.html

Why images match and where attention opens needs the network: python -m eval.retrieval --report shows it.
exit codes: 0 written, 2 bad input (one line says what is legal), 130 interrupted
"""


def build_parser() -> CommandParser:
    """The parser of `python -m eval.report`."""
    parser = CommandParser("python -m eval.report", "Write one page of saved results, to look at.", _EPILOG)
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="what --save wrote")
    add_image_options(parser.add_argument_group("the photographs that were scored"))
    parser.add_argument("--rank-by", default="map", metavar="METRIC", help="orders and compares (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="(default: %(default)s)"
    )
    add_decoding_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    with interrupts_exit():
        from eval.report.write import write_report
        from eval.results.result import RetrievalResult
        from timm_gam.data import read_images
        from timm_gam.images import DecodeLimits
    check_outputs(args.output, inputs=[*args.results, args.data_dir])
    results = [RetrievalResult.load(path) for path in args.results]
    if args.data_dir is not None or args.dataset is not None:
        images = read_images(args.data_dir, args.dataset)
        results = [result.with_images(images) for result in results]
    write_report(results, args.output, rank_by=args.rank_by, limits=DecodeLimits.of(args))
    print(f"wrote {args.output}")


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
