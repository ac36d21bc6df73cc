"""What searching photographs costs, for as many as one does not have: vectors are drawn, the code is the search's own.

    python benchmarks/images/photo_search.py exact --count 1000000 --record benchmarks/results/photo_search.json
    python benchmarks/images/photo_search.py milvus --count 100000 --record benchmarks/results/photo_search.json
    python benchmarks/images/photo_search.py duplicates --count 100000 --record benchmarks/results/photo_search.json

Each is a run of its own, as the peak of its memory is. A photograph's vector is that of its topic, of its scene and of
itself, in dimensions of which later ones vary less; queries are other photographs of the same scenes. Every photograph
is in the catalogue as a file, none is on disk: decoding and the network are measured by
`benchmarks/images/embedding.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import hardware, versions
from timm_gam.images import SIGNATURE_BYTES, Digests
from timm_gam.search import Found, PhotoFilter, PhotoIndex, SearchStore, StoreChoice, find_duplicates
from timm_gam.search.photos.folder import Photo
from timm_gam.search.photos.photo_index import Collection
from timm_gam.search.stores.milvus import MilvusStore

_BLOCK = 20_000
_TOPIC, _SCENE = 2000, 20  # photographs of each
_COLLECTION = Collection("drawn", key={"model": "drawn"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(_RUNS))
    parser.add_argument("--count", type=int, default=100_000, help="photographs (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=256, help="of the vectors (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="photo-search-") as folder:
        result = {"what": args.what, "count": args.count, **_RUNS[args.what](Path(folder), args)}
    result["peak_process_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(result, indent=1))
    if args.record:
        keep(args.record, result)


def exact(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One query at a time, and many at once, among vectors that are mapped from disk."""
    index = filled(folder, args.count, args.dim)
    store, queries = index.store(_COLLECTION), photographs(args.count, args.dim, args.queries, queries=True)
    before = resident_bytes()
    began = time.perf_counter()
    store.nearest(queries[:1], 10)
    first = time.perf_counter() - began
    one = latency(store, queries)
    filtered = latency(store, queries, PhotoFilter(folder="0"))
    return {
        "dim": args.dim,
        "first_query_seconds": first,
        "query_seconds": one,
        "query_seconds_in_a_folder_of_a_tenth": filtered,
        "queries_per_second_at_once": at_once(store, queries),
        "resident_bytes": {"before": before, "after": resident_bytes()},
        "disk_bytes": disk_bytes(index.folder),
    }


def milvus(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Milvus Lite against the exact store over the same vectors."""
    index = filled(folder, args.count, args.dim)
    queries = photographs(args.count, args.dim, args.queries, queries=True)
    right = found_by(index.store(_COLLECTION), queries)
    exact_seconds = latency(index.store(_COLLECTION), queries)
    disk = disk_bytes(index.folder)
    index.choice = StoreChoice("milvus", components=args.dim)
    store, before = index.store(_COLLECTION), resident_bytes()
    output = store.plan(args.count, args.dim)
    began = time.perf_counter()
    store.update()
    built = time.perf_counter() - began
    found = found_by(store, queries)
    facts = {
        "recall@10": recall(right, found),
        "query_seconds": latency(store, queries),
        "queries_per_second_at_once": at_once(store, queries),
        "resident_bytes": {"before": before, "after": resident_bytes()},
        "disk_bytes": disk_bytes(index.folder) - disk,
    }
    assert isinstance(store, MilvusStore)
    store.milvus.close()
    index.choice = StoreChoice("milvus", components=args.dim, search={"ef": 10})  # a parameter that is passed is felt
    narrow = index.store(_COLLECTION)
    return {
        "dim": args.dim,
        "index_type": index.choice.index_type,
        "build": dict(index.choice.build),
        "search": dict(StoreChoice().search),
        "queries": len(queries),
        **facts,
        "recall@10_of_ef_10": recall(right, found_by(narrow, queries)),
        "query_seconds_of_ef_10": latency(narrow, queries),
        "index_seconds": built,
        "exact_query_seconds": exact_seconds,
        "said_before": output,
    }


def duplicates(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All pictures with all others, of which each fiftieth is nearly the one before it."""
    index = with_files(folder, args.count)
    store, digests, rng = index.embeddings(_COLLECTION), index.catalogue.digests(), np.random.default_rng(5)
    planted = np.arange(1, args.count, 50)
    for start in range(0, args.count, _BLOCK):
        table = rng.integers(-127, 128, (min(_BLOCK, args.count - start), SIGNATURE_BYTES))
        copies = planted[(planted > start) & (planted < start + len(table))] - start
        table[copies] = table[copies - 1] + rng.integers(-25, 26, (len(copies), SIGNATURE_BYTES))
        rows = np.clip(table, -127, 127).astype(np.int8)
        store.add(digests[start : start + len(rows)], np.zeros((len(rows), 1), dtype=np.float32), rows)
    store.compact(digests, keep_others=False)
    index.use(_COLLECTION)
    before = resident_bytes()
    began = time.perf_counter()
    found = find_duplicates(index)
    return {
        "seconds": time.perf_counter() - began,
        "near_groups": len(found.near),
        "planted": len(planted),
        "resident_bytes": {"before": before, "after": resident_bytes()},
    }


_RUNS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "exact": exact,
    "milvus": milvus,
    "duplicates": duplicates,
}


def with_files(folder: Path, count: int) -> PhotoIndex:
    """An index with so many photographs in its catalogue, in 10 folders."""
    photos = folder / "photos"
    photos.mkdir()
    index = PhotoIndex.create(photos)
    digests = Digests.of(hashlib.sha256(str(row).encode()).digest() for row in range(count))
    made = [Photo(f"{row % 10}/{row}.jpg", 1, 1, digest, 640, 480) for row, digest in enumerate(digests)]
    index.catalogue.look(made)
    for start in range(0, count, _BLOCK):
        index.catalogue.keep((photo, None) for photo in made[start : start + _BLOCK])
    return index


def filled(folder: Path, count: int, dim: int) -> PhotoIndex:
    """The same with the vectors of one collection."""
    index = with_files(folder, count)
    store, digests = index.embeddings(_COLLECTION), index.catalogue.digests()
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        vectors = photographs(count, dim, rows.stop - rows.start, start)
        store.add(digests[rows], vectors, np.zeros((len(vectors), SIGNATURE_BYTES), dtype=np.int8))
    store.compact(digests, keep_others=False)
    index.use(_COLLECTION)
    return index


def photographs(count: int, dim: int, many: int, start: int = 0, queries: bool = False) -> NDArray[np.float32]:
    """(many, dim) vectors from `start` on of a set of `count`, or of as many others of its scenes."""
    spread = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    topics, scenes = (draw(seed, max(1, count // of), dim) for seed, of in ((1, _TOPIC), (2, _SCENE)))
    own = np.random.default_rng([3, start, queries])
    of_scene = own.integers(0, len(scenes), many) if queries else (start + np.arange(many)) % len(scenes)
    vectors = topics[of_scene % len(topics)] + 0.7 * scenes[of_scene]
    vectors += 0.7 * own.standard_normal((many, dim), dtype=np.float32)
    made: NDArray[np.float32] = vectors * spread
    return made


def draw(seed: int, many: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((many, dim), dtype=np.float32)


def latency(store: SearchStore, queries: NDArray[np.float32], chosen: PhotoFilter | None = None) -> dict[str, float]:
    """Seconds of a query for 10 photographs, by itself."""
    took = []
    for query in queries[:100]:
        began = time.perf_counter()
        store.nearest(query[None], 10, chosen)
        took.append(time.perf_counter() - began)
    return {"median": statistics.median(took), "95_percent": float(np.quantile(took, 0.95))}


def at_once(store: SearchStore, queries: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    store.nearest(queries, 10)
    return len(queries) / (time.perf_counter() - began)


def found_by(store: SearchStore, queries: NDArray[np.float32]) -> list[set[bytes]]:
    def digests(found: Found) -> bytes:
        return found.digest

    return [set(map(digests, row)) for row in store.nearest(queries, 10)]


def recall(right: list[set[bytes]], found: list[set[bytes]]) -> float:
    return statistics.mean(len(a & b) / 10 for a, b in zip(right, found, strict=True))


def resident_bytes() -> int:
    """Of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def keep(path: Path, result: dict[str, Any]) -> None:
    """Put a result in the record, in the place of one of the same kind and count."""
    record = json.loads(path.read_text()) if path.exists() else {"results": []}
    others = [r for r in record["results"] if (r["what"], r["count"]) != (result["what"], result["count"])]
    results = sorted([*others, result], key=lambda r: (r["what"], r["count"]))
    record = {"hardware": hardware(), "versions": versions(), "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
