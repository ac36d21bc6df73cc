"""`python -m eval.convert`: a saved result in the formats of the field. `--help` teaches by example."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timm_gam.core import CommandParser, DataError, check_outputs, command, positive, write_text

_EPILOG = """\
examples
  score and keep the result, then hand its ranking to any tool that reads TREC:
    python -m eval.retrieval --model resnet50.a1_in1k --data-dir photos --save result.safetensors
    python -m eval.convert result.safetensors run.txt --to trec
    python -m eval.convert result.safetensors qrels.txt --to qrels
  what MTEB saves as predictions; the whole ranking as a table:
    python -m eval.convert result.safetensors Task_predictions.json --to mteb
    python -m eval.convert result.safetensors ranking.parquet --to parquet --depth 20
  the file that the Hub reads from a model repository:
    python -m eval.convert result.safetensors .eval_results/corel.yaml --to eval-results --dataset timm-gam/corel

exit codes: 0 written, 2 bad input (one line says what is legal), 130 interrupted
"""


def build_parser() -> CommandParser:
    """The parser of `python -m eval.convert`."""
    parser = CommandParser(
        prog="python -m eval.convert", description="Write a saved result in a format of the field.", epilog=_EPILOG
    )
    add = parser.add_argument
    add("result", type=Path, metavar="RESULT", help="a saved result (.safetensors)")
    add("output", type=Path, metavar="FILE", help="the file to write")
    formats = ("trec", "qrels", "mteb", "parquet", "eval-results", "timm-csv")
    add("--to", choices=formats, required=True, help="which format")
    add("--depth", type=positive, metavar="N", help="ranks of each query (default: all that the result keeps)")
    add("--split", default="test", help="of mteb (default: test)")
    add("--dataset", metavar="ID", help="of eval-results: the benchmark data set on the Hub")
    add("--revision", metavar="COMMIT", help="of eval-results: its commit")
    return parser


def _run(args: argparse.Namespace) -> None:
    from eval.results.result import RetrievalResult
    from eval.tables import export

    if args.to == "eval-results" and args.dataset is None:
        raise DataError("eval-results name the benchmark they are of; give its Hub id with --dataset owner/name")
    check_outputs(args.output, inputs=[args.result])
    result = RetrievalResult.load(args.result)
    if args.to == "trec":
        export.write_trec_run(result, args.output, args.depth)
    elif args.to == "qrels":
        export.write_trec_qrels(result, args.output)
    elif args.to == "mteb":
        export.write_mteb_predictions(result, args.output, split=args.split, depth=args.depth)
    elif args.to == "parquet":
        export.write_ranking_parquet(result, args.output, args.depth)
    elif args.to == "eval-results":
        export.write_eval_results(result, args.output, args.dataset, revision=args.revision)
    else:
        write_text(args.output, export.results_csv([result]))
    print(f"wrote {args.output}")


main = command(build_parser, _run, interrupted="interrupted; nothing was written")

if __name__ == "__main__":
    sys.exit(main())
