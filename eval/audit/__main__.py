"""`python -m eval.audit`: what is wrong with a ranking, and what libraries would print. `--help` by example."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.shared import add_results_file, check_results_file, cutoff, show
from timm_gam.core import CommandParser, DataError, command, number

if TYPE_CHECKING:
    from eval.audit.ranking import Ranking
    from eval.scoring.qrels import Qrels

_EPILOG = """\
examples
  a TREC run against TREC qrels:
    python -m eval.audit run.txt --qrels qrels.txt
  the predictions that MTEB saved, where a file holds several splits:
    python -m eval.audit Task_predictions.json --qrels qrels.json --subset default --split test
  the ranks of a revisited set, a query in each column, under its hard setup:
    python -m eval.audit ranks.npy --by-column --qrels gnd.json --setup hard
  in a CI, numbers for programs:
    python -m eval.audit run.txt --qrels qrels.txt --results-file audit.json

rankings: results of eval.retrieval --save; TREC runs;
   MTEB predictions and {query: {item: score}} (ILIAS, BEIR) as JSON; neighbours (Q, K) as .npy
judgements: TREC or BEIR qrels; {query: {item: grade}} as JSON; the lists easy, hard, junk of the revisited sets as JSON
exit codes: 0 nothing wrong, 1 something is wrong, 2 bad input (one line says what is legal), 130 interrupted
"""


def build_parser() -> CommandParser:
    """The parser of `python -m eval.audit`."""
    parser = CommandParser(
        prog="python -m eval.audit",
        description="Look at a ranking from elsewhere: self-matches, ties, truncation, duplicates, metrics by name.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("ranking", type=Path, metavar="RUN", help="a ranking in one of the formats below")
    add("--qrels", type=Path, metavar="QRELS", help="judgements in a format below (default: a result's own classes)")
    add("-k", nargs="+", type=cutoff, default=[1, 5, 10], metavar="K", help="cutoffs (default: 1 5 10)")
    add("--subset", help="of MTEB predictions that hold several")
    add("--split", help="likewise")
    add("--by-column", action="store_true", help="a .npy holds a query in each column, best first from the top")
    add("--setup", choices=("easy", "medium", "hard"), default="medium", help="of the revisited sets (default: medium)")
    add(
        "--keep-self",
        action="store_true",
        help="an item with the query's own id is another item (default: it is the query, and left out)",
    )
    add(
        "--tolerance",
        type=number(float, "a number from 0 to 100", 0, 100),
        default=0.1,
        metavar="POINTS",
        help="how far ties may move a metric before that is wrong, in per cent points (default: 0.1)",
    )
    add_results_file(parser)
    return parser


def _run(args: argparse.Namespace) -> bool:
    """Whether something is wrong."""
    from eval.audit.audit import audit_ranking
    from eval.audit.tables import document, tables

    check_results_file(args.results_file, args.ranking, args.qrels)
    ranking, qrels = _inputs(args)
    result = audit_ranking(
        ranking,
        qrels,
        ks=sorted(set(args.k)),
        tolerance=args.tolerance / 100,
    )
    show(args.results_file, document(result), lambda: tables(result))
    return bool(result.wrong)


def _inputs(args: argparse.Namespace) -> tuple[Ranking, Qrels]:
    from eval.audit.formats import read_qrels, read_ranking, read_result

    if args.ranking.suffix == ".safetensors":
        ranking, qrels = read_result(args.ranking)
    elif args.qrels is None:
        raise DataError(f"'{args.ranking}' says nothing of what is relevant; name judgements with --qrels")
    else:
        ranking = read_ranking(args.ranking, subset=args.subset, split=args.split, ranks_by_column=args.by_column)
    if args.qrels is not None:
        qrels = read_qrels(args.qrels, setup=args.setup, self_matches=args.keep_self)
    ranked, judged = len(ranking.queries), len(qrels.grades)
    by_place = args.ranking.suffix == ".npy" and set(qrels.grades) == set(map(str, range(judged)))
    if by_place and ranked > judged:
        raise DataError(
            f"'{args.ranking}' ranks for {ranked} queries, '{args.qrels}' judges {judged}; give files of the same "
            "queries, and name --by-column where each column of the ranking is one"
        )
    return ranking, qrels


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
