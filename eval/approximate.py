"""`python -m eval.approximate`: approximate search of embeddings, and what it costs in recall. `--help` by example.

Only this module parses, prints and exits; the work is done by `timm_gam.search`.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_gam.core import (
    CommandParser,
    DataError,
    check_outputs,
    command,
    count,
    number,
    positive,
    progress_bar,
    share,
)

if TYPE_CHECKING:  # heavy imports wait until the command line is known to be legal
    import numpy as np
    from numpy.typing import NDArray

    from timm_gam.search import ApproximateIndex, QuerySample

_EPILOG = """\
examples
  how much faster can this gallery be searched, at a recall of 0.99? the indexes that suit its size are tried:
    python -m eval.approximate gallery.npy
  embeddings that python -m eval.retrieval --cache-dir cache kept, with queries of their own:
    python -m eval.approximate cache/0123abcd.safetensors --queries queries.npy
  FAISS factory strings side by side, numbers kept:
    python -m eval.approximate gallery.npy --index HNSW32 IVF4096,Flat IVF2048,PQ256x4fs,RFlat --results-file out.json
  build once, search later; of several the fastest that reaches the recall is kept:
    python -m eval.approximate gallery.npy --save gallery.faiss
    python -m eval.approximate gallery.npy --load gallery.faiss --recall 0.95

Recall is the share of the exact k nearest that are found, ties counted fairly. Half of the queries choose the search
parameters, the other half are measured. Without --queries, rows of the gallery are queries and never find themselves.

exit codes: 0 measured, 2 bad input (one line says what is legal), 130 interrupted
"""


def build_parser() -> CommandParser:
    """The parser of `python -m eval.approximate`."""
    parser = CommandParser(
        prog="python -m eval.approximate",
        description="Search embeddings approximately, by FAISS, and measure the recall against exact search.",
        epilog=_EPILOG,
    )
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help=".npy, or .safetensors with a tensor 'vectors'")
    parser.add_argument("--queries", type=Path, metavar="FILE", help="likewise (default: rows of the gallery)")
    parser.add_argument(
        "--distance", choices=("cosine", "euclidean"), default="cosine", help="between embeddings (default: cosine)"
    )
    parser.add_argument(
        "--index",
        nargs="+",
        metavar="FACTORY",
        help="FAISS factory strings (default: by the gallery's size)",
    )
    parser.add_argument("--recall", type=share, default=0.99, help="to reach, above 0 and at most 1 (default: 0.99)")
    parser.add_argument("--search-parameters", metavar="NAME=VALUE[,...]", help="FAISS's own, instead of tuning")
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="neighbours (default: 10)")
    two = number(int, "a whole number of at least 2", 2)
    parser.add_argument("--sample", type=two, default=2000, metavar="N", help="the most queries (default: 2000)")
    parser.add_argument("--seed", type=count, default=0, help="of the queries and rows drawn (default: 0)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the best index, and FILE.json beside it")
    parser.add_argument("--load", type=Path, metavar="FILE", help="an index that --save kept, of this very gallery")
    parser.add_argument("--results-file", type=Path, metavar="FILE", help="write the results as JSON")
    return parser


def read_vectors(path: Path) -> NDArray[np.floating]:
    """(N, D) float embeddings of a .npy or .safetensors file (tensor "vectors"), mapped from disk.

    Raises:
        DataError: no such file, or no matrix of numbers in it.

    >>> import numpy as np
    >>> np.save("vectors.npy", np.eye(4, dtype=np.float32))
    >>> read_vectors(Path("vectors.npy")).shape
    (4, 4)
    """
    import numpy as np

    legal = "a .npy matrix, or a .safetensors file with a float32 tensor 'vectors'"
    vectors: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                vectors = file.get_tensor("vectors").numpy()
        else:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read embeddings '{path}': {error.strerror or error}; legal: {legal}") from error
    except Exception as error:  # both readers refuse bad files in several ways
        reason = str(error).splitlines()[0]
        reason = "it is no .npy file" if "pickle" in reason else reason  # NumPy advises to load it unsafely
        raise DataError(f"'{path}' holds no embeddings: {reason}; legal: {legal}") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        shape = getattr(vectors, "shape", "no array")
        raise DataError(f"'{path}' holds {shape} of {getattr(vectors, 'dtype', 'no type')}; legal: {legal}")
    return vectors


def measure(index: ApproximateIndex, sample: QuerySample) -> dict[str, Any]:
    """Recall with its 95 % interval and speed of an index, beside exact search.

    >>> import numpy as np
    >>> from timm_gam.search import build_index, sample_queries
    >>> gallery = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    >>> index = build_index(gallery, "Flat", distance="cosine")
    >>> measure(index, sample_queries(gallery, None, distance="cosine", k=10, sample=50))["recall@10"]
    1.0
    """
    import numpy as np

    from eval.scoring.statistics.intervals import average

    index.search(sample.queries[:16], sample.k, self_index=None)  # warms up
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = index.search(sample.queries, sample.k, self_index=sample.self_index)
        seconds.append(time.perf_counter() - began)
    recall = sample.recall(found)
    summary = average({"recall": recall}, np.zeros(len(recall), dtype=np.int64))["recall"]
    exact_rate, rate = len(recall) / sample.exact_seconds, len(recall) / float(np.median(seconds))
    return {
        **asdict(index.facts),
        f"recall@{sample.k}": summary.micro,
        f"recall@{sample.k}_ci95": list(summary.micro_interval or ()),
        "queries": len(recall),
        "queries_per_second": rate,
        "search_seconds": seconds,
        "exact_queries_per_second": exact_rate,
        "times_exact": rate / exact_rate,
    }


def _run(args: argparse.Namespace) -> None:
    beside = None if args.save is None else args.save.with_name(args.save.name + ".json")
    check_outputs(args.save, beside, args.results_file, inputs=[args.gallery, args.queries, args.load])
    if args.load and (args.index or args.save):
        raise DataError("--load came with --index or --save, which would do nothing; name one or the other")
    from timm_gam.search import import_faiss, load_index

    import_faiss()
    gallery = read_vectors(args.gallery)
    kept = load_index(args.load, gallery) if args.load else None
    if kept is not None and kept.facts.distance != args.distance:
        raise DataError(f"index '{args.load}' is for {kept.facts.distance} distance; name it with --distance")
    tuning, measured = _sample(args, gallery).halves(args.seed)
    results: list[dict[str, Any]] = []
    notes: list[str] = []
    best_rank = False, -1.0
    for index in _built(args, gallery) if kept is None else [kept]:
        reached = True
        if args.search_parameters is not None:
            index.set_parameters(args.search_parameters)
        else:
            reached = index.tune(args.recall, tuning)
            if not reached:
                notes.append(f"{index.facts.factory} does not reach a recall of {args.recall}; its best is shown")
        result = measure(index, measured)
        results.append(result)
        rank = reached, result["queries_per_second"] if reached else result[f"recall@{args.k}"]
        if rank > best_rank:
            best_rank, best = rank, index
    _publish(args, results, notes, best)


def _sample(args: argparse.Namespace, gallery: NDArray[np.floating]) -> QuerySample:
    from timm_gam.search import sample_queries

    queries = read_vectors(args.queries) if args.queries else None
    count = min(args.sample, len(gallery if queries is None else queries))
    with progress_bar("exact search", "pair", len(gallery) * count) as advance:
        return sample_queries(
            gallery, queries, distance=args.distance, k=args.k, sample=args.sample, seed=args.seed, on_progress=advance
        )


def _built(args: argparse.Namespace, gallery: NDArray[np.floating]) -> Iterator[ApproximateIndex]:
    """The indexes to compare, one after another."""
    from timm_gam.search import build_index, default_factories

    # Search parameters belong to one kind of index.
    usual = default_factories(*gallery.shape)[: 1 if args.search_parameters else None]
    for factory in args.index or usual:
        with progress_bar(f"building {factory}", "row", len(gallery)) as advance:
            index = build_index(gallery, factory, distance=args.distance, seed=args.seed, on_progress=advance)
        yield index


def _publish(args: argparse.Namespace, results: list[dict[str, Any]], notes: list[str], best: ApproximateIndex) -> None:
    from eval.tables.metric_tables import text_table
    from timm_gam.core import hardware, versions, write_json

    first, name = results[0], f"recall@{args.k}"
    print(f"gallery   {first['count']} x {first['dim']}, {first['distance']}; {first['queries']} queries measured")
    print(f"exact     {first['exact_queries_per_second']:.1f} queries/s (float32 first pass, scored again exactly)\n")
    rows = [["index", name, "queries/s", "times exact", "build, s", "MB", "search parameters"]]
    for result in results:
        interval = [f"{bound:.4f}" for bound in result[f"{name}_ci95"]]  # none of too few queries
        rows.append(
            [
                result["factory"],
                f"{result[name]:.4f}" + (f" [{', '.join(interval)}]" if interval else ""),
                f"{result['queries_per_second']:.0f}",
                f"{result['times_exact']:.1f}",
                f"{result['build_seconds']:.1f}",
                f"{result['bytes'] / 1e6:.1f}",
                result["parameters"] or "-",
            ]
        )
    print(text_table(rows, rules=(0,)))
    for note in notes:
        print(f"note: {note}")
    if args.save:
        best.save(args.save)  # what a full disk refuses has been printed
        print(f"wrote {args.save} and {args.save}.json: {best.facts.factory}")
    if args.results_file:
        document = {
            "schema": "timm-gam/approximate/1",
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "wanted_recall": args.recall,
            "notes": notes,
            "exact": "timm_gam.search.exact: float32 products and top-k in blocks, scored again without rounding",
            "versions": {**versions(), **first["versions"]},
            "hardware": hardware(),
            "results": results,
        }
        write_json(args.results_file, document)
        print(f"wrote {args.results_file}")


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
