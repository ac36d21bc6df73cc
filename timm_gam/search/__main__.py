"""`timm-gam search`, also `python -m timm_gam.search`: find photographs that look like others. `--help` by example.

Only this module and `photos.commands` parse, print and exit. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timm_gam.core import CommandParser, command, count, positive
from timm_gam.embed import add_view_arguments
from timm_gam.images import add_decoding_arguments, add_near_argument

_EPILOG = """\
examples
  make an index of a folder, or bring it up to date (new, changed, moved and deleted photographs are found):
    timm-gam search index photos
    timm-gam search index photos --model mobilenetv2_100.ra_in1k
  for millions, search in Milvus instead of in files (the token of a server is read from MILVUS_TOKEN):
    timm-gam search index photos --store milvus
    timm-gam search index photos --store http://127.0.0.1:19530 --components 512
  the ten photographs most like one, as a table and as a contact sheet:
    timm-gam search query holiday.jpg --in photos --html found.html
  like several, of one summer, for a program:
    timm-gam search query a.jpg b.jpg --in photos --since 2019-06 --until 2019-08 --json
  in the browser:
    timm-gam search serve photos
  the same photograph twice, or nearly:
    timm-gam search duplicates photos --html duplicates.html

The index lies in PHOTOS/.timm-gam-index unless --index names another folder; photographs are only ever read.

exit codes: 0 done, 2 bad input (one line says what is legal), 130 interrupted (what was embedded is kept)
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `timm-gam search`."""
    parser = CommandParser("timm-gam search", "Find photographs that look like others; no labels needed.", _EPILOG)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Subparser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    _add_index(add("index", "make the index of a folder, or bring it up to date"))
    _add_query(add("query", "the photographs most like one, or like several"))
    _add_serve(add("serve", "look through the photographs in a browser: drop one, or click one"))
    _add_duplicates(add("duplicates", "photographs that are there more than once, or nearly"))
    return parser


class _Subparser(CommandParser):
    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description, "see also: timm-gam search --help")


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder of photographs, with any subfolders")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="of the index (default: PHOTOS/.timm-gam-index)")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="timm model: name, name.tag, hf-hub:owner/repo, local-dir:folder (default: the last one, else "
        "resnet50.a1_in1k from the Hub, else the tiny test_resnet_gam.corel of the package)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="safetensors weights for --model")
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where vectors are searched: exact; milvus, which is Milvus Lite in the index; FILE.db, Milvus Lite "
        "there; or the URL of a Milvus server or cluster (default: what the index has, at first exact)",
    )
    parser.add_argument(
        "--components", type=positive, metavar="N", help="of the whitened vectors that Milvus keeps (default: 256)"
    )
    add_view_arguments(parser)
    parser.add_argument("-b", "--batch-size", type=positive, default=32, metavar="N", help="(default: %(default)s)")
    parser.add_argument("-j", "--workers", type=count, metavar="N", help="decoding processes (default: by device)")
    parser.add_argument("--amp", action="store_true", help="mixed precision; faster, and another collection")
    add_decoding_arguments(parser)
    _add_device(parser)
    _add_json(parser)


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", nargs="+", type=Path, metavar="PHOTO", help="a photograph; several are averaged")
    parser.add_argument(
        "--in", dest="index", type=Path, required=True, metavar="INDEX", help="an index, or a folder (indexed first)"
    )
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="how many (default: %(default)s)")
    parser.add_argument("--model", metavar="NAME", help="of several that indexed (default: the last)")
    parser.add_argument(
        "--rerank",
        metavar="METHOD",
        help="order by what is near in the whole collection, not by cosine alone: qe, dba, diffusion or k-reciprocal, "
        "with options as of timm-gam score; reads every vector",
    )
    group = parser.add_argument_group("only photographs")
    group.add_argument("--folder", default="", metavar="PATH", help="in this folder below PHOTOS")
    group.add_argument("--since", default="", metavar="DATE", help="taken then or later: YYYY[-MM[-DD]] (EXIF)")
    group.add_argument("--until", default="", metavar="DATE", help="taken then or before")
    group.add_argument("--size", default="", metavar="WxH", help="at least so many pixels, lying or standing")
    add_decoding_arguments(parser)
    _add_sheets(parser)
    _add_device(parser)
    _add_json(parser)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="an index, or a folder (indexed first)")
    parser.add_argument("--model", metavar="NAME", help="of several that indexed (default: the last)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="of this machine; any but the loopback one asks visitors for a token (default: %(default)s)",
    )
    parser.add_argument("--port", type=count, default=8350, metavar="N", help="0: any (default: %(default)s)")
    add_decoding_arguments(parser)
    _add_device(parser)


def _add_duplicates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="an index, or a folder (indexed first)")
    add_near_argument(parser)
    add_decoding_arguments(parser)
    _add_sheets(parser)
    _add_json(parser)


def _add_sheets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a contact sheet as a page")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a contact sheet as a picture")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(args: argparse.Namespace) -> None:
    from timm_gam.search.photos import commands

    getattr(commands, args.command)(args)


main = command(build_parser, _run, interrupted="interrupted; what was embedded is kept, the same command goes on")

if __name__ == "__main__":
    sys.exit(main())
