"""How often do the 95 % intervals hold? Images, queries or classes are drawn again and again from known populations.

    python benchmarks/scoring/coverage.py                      (an hour on one core; --runs 100 for a first look)
    python benchmarks/scoring/coverage.py --table              (what benchmarks/results/coverage.json holds)

A world is a set of class centres and class spreads; an image is its centre and noise, now and then much of it. Two
"models" see the same images, the second with more noise, for paired differences. What an interval should hold is the
mean over all draws of the same world: for `queries` the gallery stays, for `images` all images are drawn anew, for
`classes` the world as well, its class sizes included. An interval that was refused counts as no miss and is listed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.scoring.retrieval_scores import RetrievalScores, score_retrieval
from eval.scoring.statistics.intervals import difference

RECORD = Path(__file__).parents[1] / "results" / "coverage.json"
METRICS = ("map", "hit@1", "precision@10", "ndcg@10", "hit@10")
DIFFERENCES = ("map", "hit@1")
DIM = 12
SIZES = {
    "20 x 10": np.full(20, 10),
    "80 x 27": np.full(80, 27),
    "unbalanced": np.round(np.geomspace(2, 60, 40)).astype(int),  # 2 to 60 images, 690 in all
}
"""Images of each class; of `queries`, in the unbalanced one, half the classes have a single query."""
WORLDS = 5
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="draws per size and population (80 x 27: half)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--table", action="store_true", help="only show the record")
    args = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for size in [] if args.table else args.sizes:
        for population in ("queries", "images", "classes"):
            runs = args.runs // 2 if size == "80 x 27" else args.runs
            record[f"{population}, {size}"] = {"runs": runs, **simulate(population, SIZES[size], runs)}
            RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    show(record)


def simulate(population: str, sizes: NDArray[np.int64], runs: int) -> dict[str, dict[str, float]]:
    """Name of what is estimated -> coverage, mean width in points, and the share of intervals that were refused."""
    hits: dict[str, list[bool]] = defaultdict(list)
    widths: dict[str, list[float]] = defaultdict(list)
    refused: dict[str, int] = defaultdict(int)
    worlds = 1 if population == "classes" else WORLDS
    for world in range(worlds):
        found: dict[str, list[tuple[float, tuple[float, float] | None]]] = defaultdict(list)
        for run in range(runs // worlds):
            for name, value, interval in estimates(population, sizes, world, run):
                found[name].append((value, interval))
        for name, pairs in found.items():
            truth = float(np.mean([value for value, _ in pairs]))
            for _, interval in pairs:
                if interval is None:
                    refused[name] += 1
                    continue
                hits[name].append(interval[0] <= truth <= interval[1])
                widths[name].append(interval[1] - interval[0])
    return {
        name: {
            "coverage": round(float(np.mean(hits[name])), 4) if hits[name] else float("nan"),
            "width": round(100 * float(np.mean(widths[name])), 2) if widths[name] else float("nan"),
            "refused": round(refused[name] / runs, 4),
        }
        for name in dict.fromkeys([*hits, *refused])
    }


def estimates(
    population: str, sizes: NDArray[np.int64], world: int, run: int
) -> list[tuple[str, float, tuple[float, float] | None]]:
    """(what, value, interval) of one draw."""
    draw = np.random.default_rng([world, run, 1])
    place = np.random.default_rng([world, run, 2] if population == "classes" else [world])
    if population == "classes":
        sizes = place.choice(sizes, len(sizes))
    centres, spreads = place.normal(size=(len(sizes), DIM)), np.exp(0.4 * place.normal(size=len(sizes)))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = _images(centres, spreads, labels, draw)
    query = gallery = None
    if population == "queries":
        fixed = _images(centres, spreads, labels, np.random.default_rng([world, 3]))
        asked = np.where(np.arange(len(sizes)) % 2, 1, sizes) if sizes.min() < sizes.max() else sizes
        queries = np.repeat(np.arange(len(sizes)), asked)
        query, gallery = np.arange(len(queries)), len(queries) + np.arange(len(labels))
        images = np.concatenate([_images(centres, spreads, queries, draw), fixed])
        labels = np.concatenate([queries, labels])
    noise = np.random.default_rng([world, 4 if population == "queries" else run, 5])
    worse = images + 0.5 * noise.normal(size=images.shape)
    if population == "queries":  # the gallery stays for both, the queries' noise does not
        worse[query] = images[query] + 0.5 * draw.normal(size=(len(query), DIM))  # type: ignore[arg-type]
    first, second = (
        score_retrieval(each, labels, query=query, gallery=gallery, ks=(1, 10), intervals=population)  # type: ignore[arg-type]
        for each in (images, worse)
    )
    return [*_averages(first), *_differences(first, second)]


def _images(
    centres: Floats, spreads: Floats, labels: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.float32]:
    hard = np.where(draw.random(len(labels)) < 0.1, 2.0, 1.0)
    noise = (spreads[labels] * hard)[:, None] * draw.normal(size=(len(labels), DIM))
    return (centres[labels] + noise).astype(np.float32)


def _averages(scores: RetrievalScores) -> list[tuple[str, float, tuple[float, float] | None]]:
    return [
        (f"{name}, {kind}", getattr(scores.averages[name], kind), getattr(scores.averages[name], f"{kind}_interval"))
        for name in METRICS
        for kind in ("micro", "macro")
    ]


def _differences(a: RetrievalScores, b: RetrievalScores) -> list[tuple[str, float, tuple[float, float] | None]]:
    both = (a.influence, b.influence) if a.influence is not None and b.influence is not None else None
    found = []
    for name in DIFFERENCES:
        gaps = a.per_query[name] - b.per_query[name]
        population = a.population or "queries"
        mean, interval, _ = difference(name, gaps, a.labels, population=population, influences=both)
        found.append((f"{name}, difference", mean, interval))
    return found


def show(record: dict[str, dict[str, dict[str, float]]]) -> None:
    names = [f"{name}, {kind}" for name in METRICS for kind in ("micro", "macro")]
    names += [f"{name}, difference" for name in DIFFERENCES]
    print(f"| population, classes x images | runs | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
    for setting, cells in record.items():
        shown = [f"{100 * cells[name]['coverage']:.1f}" if cells[name]["refused"] < 1 else "too few" for name in names]
        print(f"| {setting} | {cells['runs']} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
