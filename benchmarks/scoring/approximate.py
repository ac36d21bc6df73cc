"""Approximate search of a million real vectors against exact search of the same, in one run.

    python benchmarks/images/descriptors.py --data-dir coreldb --checkpoint FILE.safetensors --output descriptors
    python benchmarks/scoring/approximate.py descriptors --index IVF2048,SQ8 --record results/approximate.json

For each FAISS factory string: exact search of the queries, the build, the tuning to `--recall` on half of the queries,
and recall and throughput on the other half; where the recall cannot be reached the best setting stands in its place.
One call an index keeps each run short: the record takes them in one by one, each with the exact throughput of its own
run. Exact search is `timm_gam.search.exact`: float32 products and top-k in blocks, the candidates scored again without
rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any

from eval import measure, read_vectors
from timm_gam.core import hardware, versions
from timm_gam.search import build_index, sample_queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("descriptors", type=Path, help="a folder that benchmarks/images/descriptors.py made")
    parser.add_argument("--index", nargs="+", default=[None], metavar="FACTORY", help="default: the usual one")
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--sample", type=int, default=2000, help="queries; half tune, half are measured")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()

    gallery, queries = (read_vectors(args.descriptors / name) for name in ("gallery.npy", "queries.npy"))
    tuning, measured = sample_queries(gallery, queries, sample=args.sample).halves()
    for factory in args.index:
        index = build_index(gallery, factory)
        reached = index.tune(args.recall, tuning)
        result = {
            **measure(index, measured),
            "wanted_recall": args.recall,
            "reached_in_tuning": reached,
            "peak_process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        }
        low, high = result["recall@10_ci95"]
        print(
            f"{result['factory']:36} recall@10 {result['recall@10']:.4f} [{low:.4f}, {high:.4f}]  "
            f"{result['queries_per_second']:.0f} queries/s, {result['times_exact']:.1f} times exact  "
            f"build {result['build_seconds']:.0f} s  {result['bytes'] / 1e9:.2f} GB  {result['parameters']}",
            flush=True,
        )
        if args.record:
            keep(args.record, args.descriptors, result)


def keep(path: Path, descriptors: Path, result: dict[str, Any]) -> None:
    """Put a result in the record, in the place of one of the same index and wanted recall."""
    record = json.loads(path.read_text()) if path.exists() else {"results": []}
    same = ("factory", "wanted_recall")
    others = [r for r in record["results"] if any(r[name] != result[name] for name in same)]
    record = {
        "data": json.loads((descriptors / "descriptors.json").read_text()),
        "exact": "timm_gam.search: float32 products and top-k in blocks, candidates scored again without rounding",
        "hardware": hardware(),
        "versions": versions(),
        "results": sorted([*others, result], key=lambda r: (r["wanted_recall"], r["factory"])),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
