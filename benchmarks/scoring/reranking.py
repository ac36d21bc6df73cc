"""What embedding options and re-rankings bring on a data set, as one record.

    python benchmarks/scoring/reranking.py --data-dir photos --model mobilenetv2_100=FILE.safetensors --record FILE

Every row is `python -m eval.retrieval` with the options it names; its gains are against the plain ranking of the same
embeddings, with intervals for other queries. What is fitted is fitted on split "train" and scored on split "test".
`--only` chooses rows, and rows that the record has are kept, so that several runs make one record.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from eval.retrieval import main as retrieval
from timm_gam.core import write_json

VIEWS = "--img-size 320 --tta flip --scales 1 0.7"
EMBEDDINGS = (
    "",
    "--pool max",
    "--pool gem",
    "--pool rmac",
    "--stages 3",
    "--tta flip",
    "--img-size 320",
    VIEWS,
)
RANKINGS = (
    "--power 0.5",
    "--rerank qe",
    "--rerank dba",
    "--rerank dba --transductive",
    "--rerank diffusion",
    "--rerank diffusion --transductive",
    "--rerank k-reciprocal",
    "--power 0.5 --rerank dba",
    "--power 0.5 --rerank diffusion",
    "--power 0.5 --rerank diffusion --transductive",
)
_SAME = ("--interval", "queries")  # which every ranking has: of the same queries, against the same gallery
FITTED = ("--whiten 256", "--power 0.5 --whiten 256", "--power 0.5 --whiten 256 --rerank diffusion")


def rows() -> list[str]:
    """The options of every row."""
    ranked = [f"{embedding} {ranking}".strip() for embedding in ("", VIEWS) for ranking in RANKINGS]
    fitted = [f"--split test {embedding} {ranking}" for embedding in ("", VIEWS) for ranking in FITTED]
    return [*EMBEDDINGS, *ranked, *(" ".join(row.split()) for row in fitted)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="JSON to write, or to add rows to")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose options match (default: all)")
    args, common = parser.parse_known_args()
    record: dict[str, Any] = json.loads(args.record.read_text()) if args.record.exists() else {"rows": {}}
    for options in rows():
        if options in record["rows"] or not re.search(args.only, options):
            continue
        print(options or "(plain)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            file = Path(folder) / "results.json"
            if code := retrieval([*common, *options.split(), *_SAME, "--results-file", str(file)]):
                return code
            document = json.loads(file.read_text())
        record |= {name: document[name] for name in ("created", "seed", "versions", "hardware")}
        entry = document["results"][-1]
        entry.pop("per_class")
        for gain in (entry["recipe"] or {}).get("gains_per_class", []):
            gain["differences"] = {"map": gain["differences"]["map"]}
        record["rows"][options] = entry
        write_json(args.record, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
