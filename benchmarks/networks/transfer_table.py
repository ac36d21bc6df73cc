"""The tables of docs/EVIDENCE.md, from the committed records: does attention help a network pretrained without it?

    python benchmarks/networks/transfer_table.py
    python benchmarks/networks/transfer_table.py --pack runs/transfer --name coreldb    (after `eval.transfer`)

A packed file holds OUTPUT/data.json and every record of the experiment, one a line. mAP stays per query; the other
metrics are packed as means. From the embeddings of final runs comes `image_effects`: by how much mAP would change
through the rankings of the others, were an image away, for each of `sample_images`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eval.scoring.retrieval_scores import score_retrieval
from eval.scoring.statistics.influence import Influence, sample_images
from eval.scoring.statistics.intervals import Population, difference, difference_spread
from eval.scoring.statistics.significance import holm, p_over_runs

RESULTS = Path(__file__).parents[1] / "results" / "transfer"
ATTENTIONS = ("se", "cbam", "gam")
STARTS = ("identity", "usual")
OF_INTEREST = 1.0  # points of mAP
Maps = dict[str, NDArray[np.float64]]  # arm -> (seeds, queries), in points of mAP
Effects = dict[str, Influence]  # arm -> of its mean over seeds, in points of mAP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="pack the records of this experiment")
    parser.add_argument("--name", metavar="NAME", help="data set that --pack names the file by")
    args = parser.parse_args()
    if args.pack:
        if not args.name:
            parser.error("--pack needs --name")
        pack(args.pack, RESULTS / f"{args.name}.json")
        return
    for path in sorted(RESULTS.glob("*.json")):
        packed = json.loads(path.read_text(encoding="utf-8"))
        (show if "test_labels" in packed["data"] else show_means)(path.stem, packed)


def pack(folder: Path, path: Path) -> None:
    runs = [json.loads(one.read_text(encoding="utf-8")) for one in sorted((folder / "records").glob("*.json"))]
    for run in runs:
        for metric in ("hit@1", "hit@10", "precision@10"):
            if metric in run.get("test", {}):
                run["test"][metric] = round(float(np.mean(run["test"][metric])), 6)
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    for run in runs:
        vectors = folder / "embeddings" / f"{run['name']}.npy"
        if vectors.exists() and "test" in run:
            run["test"]["image_effects"] = _image_effects(np.load(vectors), np.array(data["test_labels"]))
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'{{"data": {json.dumps(data, separators=(",", ":"))},\n"runs": [\n{lines}\n]}}\n', encoding="utf-8"
    )


def _image_effects(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    influence = score_retrieval(vectors, labels, ks=(1,), intervals="images").influence
    assert influence is not None
    return [float(f"{effect:.4g}") for effect in influence.effects["map"][0].sum(axis=0)]


def _effects(arms: dict[str, list[dict[str, Any]]], labels: NDArray[np.int64]) -> Effects:
    """Of arms whose every run has its own."""
    image, sizes = sample_images(labels), np.bincount(labels)
    found = {}
    for arm, of in arms.items():
        if all("image_effects" in run["test"] for run in of):
            mean = 100 * np.mean([run["test"]["image_effects"] for run in of], axis=0)
            both = np.stack([np.stack([mean, np.zeros_like(mean)])] * 2)
            found[arm] = Influence(image, labels[image], image, sizes[labels[image]], len(labels), {"map": both})
    return found


def show(name: str, packed: dict[str, Any]) -> None:
    runs = packed["runs"]
    final = [run for run in runs if run["kind"] == "final" and "test" in run]
    arms = {run["arm"]: [one for one in final if one["arm"] == run["arm"]] for run in final}
    images, hours = packed["data"]["images"], sum(run["seconds"] for run in runs) / 3600
    sizes = ", ".join(f"{count} {part}" for part, count in images.items())
    print(f"\n### {name}: {sizes}; {len(runs)} runs, {hours:.1f} core hours\n")
    main = [arms.get(arm, []) for arm in ("plain", *(f"{kind}-{start}" for kind in ATTENTIONS for start in STARTS))]
    if len({_seeds(of) for of in main}) > 1:
        _show_partial(arms, packed)
        return
    cut_short = {arm: of for arm, of in arms.items() if _seeds(of) != _seeds(arms["plain"])}
    arms = {arm: of for arm, of in arms.items() if arm not in cut_short}
    maps, labels = _maps(arms, "test"), np.array(packed["data"]["test_labels"])
    effects = _effects(arms, labels)
    _show_arms(arms, maps, runs)
    pairs = [(f"{kind}-identity", f"{kind}-usual") for kind in ATTENTIONS]
    pairs += [(f"{kind}-identity", "plain") for kind in ATTENTIONS]
    print("\nPrimary, p adjusted after Holm over the six:\n")
    _show_differences(maps, pairs, labels, effects, adjust=True)
    pairs = [(f"{kind}-usual", "plain") for kind in ATTENTIONS] + [("wide", "plain"), ("gam-identity", "wide")]
    pairs += [(f"{kind}-{start}-lr1", f"{kind}-{start}") for kind in ATTENTIONS for start in ("identity", "usual")]
    pairs += [(f"{kind}-identity-lr1", "plain") for kind in ATTENTIONS]
    print("\nSecondary, unadjusted:\n")
    pairs = [pair for pair in pairs if pair[0] in maps and pair[1] in maps]
    _show_differences(maps, pairs, labels, effects, adjust=False)
    print("\nGates of the trained network, replaced; intervals for other seeds and other queries:\n")
    _show_gates({arm: of for arm, of in arms.items() if "gates" in of[0]}, maps, labels)
    for arm, of in cut_short.items():
        gaps = [100 * np.mean(run["test"]["map"]) - maps[arm.removesuffix("-lr1")][run["seed"]].mean() for run in of]
        listed = ", ".join(f"{gap:+.2f} (seed {run['seed']})" for gap, run in zip(gaps, of, strict=True))
        print(f"\n{arm} cut short; less {arm.removesuffix('-lr1')}: {listed}")


def show_means(name: str, packed: dict[str, Any]) -> None:
    """Runs of which means alone are known: intervals for other trainings, not for other queries."""
    final = [run for run in packed["runs"] if run["kind"] == "final"]
    maps = {
        arm: 100 * np.array([[run["test"]["map"]] for run in _by_seed([one for one in final if one["arm"] == arm])])
        for arm in dict.fromkeys(run["arm"] for run in final)
    }
    print(f"\n### {name}: means of runs\n\n{packed['about']}\n\n| arm | mAP by seed | mean | SD | lr: validation mAP |")
    print("|---|---|---|---|---|")
    for arm, values in maps.items():
        tuned = [one for one in packed["runs"] if one["kind"] == "tune" and one["arm"] == arm]
        curve = ", ".join(f"{one['lr']}: {100 * one['val_map']:.2f}" for one in tuned)
        listed = ", ".join(f"{value:.2f}" for value in values[:, 0])
        print(f"| {arm} | {listed} | {values.mean():.2f} | {values.std(ddof=1):.2f} | {curve} |")
    pairs = [(f"{kind}-identity", f"{kind}-usual") for kind in ATTENTIONS]
    pairs += [(f"{kind}-identity", "plain") for kind in ATTENTIONS]
    print("\nPrimary, p adjusted after Holm over the six; intervals over seeds alone:\n")
    nobody = np.zeros(1, dtype=np.int64)  # no queries are known
    _show_differences(maps, pairs, nobody, {}, adjust=True)
    print("\nSecondary, unadjusted:\n")
    _show_differences(maps, [(f"{kind}-usual", "plain") for kind in ATTENTIONS], nobody, {}, adjust=False)
    for arm in dict.fromkeys(run["arm"] for run in final if "test_gates_frozen" in run):
        for part in ("test_gates_frozen", "test_gates_shuffled"):
            known = [run for run in final if run["arm"] == arm and part in run]
            costs = [f"{100 * (run[part]['map'] - run['test']['map']):+.2f}" for run in _by_seed(known)]
            print(f"\n{arm}, {part.removeprefix('test_')}: {', '.join(costs)}", end="")
    print()


def _seeds(runs: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(sorted(run["seed"] for run in runs))


def _show_partial(arms: dict[str, list[dict[str, Any]]], packed: dict[str, Any]) -> None:
    """Runs that time cut short: each seed by itself, its weights fixed, with intervals for other test queries."""
    labels = np.array(packed["data"]["test_labels"])
    seeds = sorted({run["seed"] for of in arms.values() for run in of})
    print("Cut short: each seed by itself, weights fixed; differences with 95 % intervals for other queries.\n")
    print(f"| arm | parameters | {' | '.join(f'seed {s}: mAP, less plain, frozen, shuffled' for s in seeds)} |")
    print("|---|---|" + "---|" * len(seeds))
    plain = {run["seed"]: run for run in arms["plain"]}
    for arm, of in arms.items():
        cells = []
        for seed in seeds:
            run = next((run for run in of if run["seed"] == seed), None)
            if run is None:
                cells.append("-")
                continue
            own = np.array(run["test"]["map"])
            cell = f"{100 * own.mean():.2f}"
            if arm != "plain" and seed in plain:
                cell += f", {_over_queries(own, plain[seed], labels)}"
            for part in ("test_gates_frozen", "test_gates_shuffled"):
                cell += f", {100 * np.mean(run[part]['map']):.2f}" if part in run else ""
            cells.append(cell)
        print(f"| {arm} | {of[0]['parameters']:,} | {' | '.join(cells)} |")
    print("\n| difference | " + " | ".join(f"seed {seed}" for seed in seeds) + " |\n|---|" + "---|" * len(seeds))
    for kind in ATTENTIONS:
        cells = []
        for seed in seeds:
            both = [run for arm in ("identity", "usual") for run in arms[f"{kind}-{arm}"] if run["seed"] == seed]
            cells.append(_over_queries(np.array(both[0]["test"]["map"]), both[1], labels) if len(both) == 2 else "-")
        print(f"| {kind}-identity less {kind}-usual | {' | '.join(cells)} |")


def _over_queries(own: NDArray[np.float64], other: dict[str, Any], labels: NDArray[np.int64]) -> str:
    mean, interval, _ = difference("map", own - np.array(other["test"]["map"]), labels)
    low, high = interval or (np.nan, np.nan)
    return f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _maps(arms: dict[str, list[dict[str, Any]]], part: str) -> Maps:
    return {arm: 100 * np.array([run[part]["map"] for run in _by_seed(of)]) for arm, of in arms.items()}


def _by_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(runs, key=lambda run: int(run["seed"]))


def _show_arms(arms: dict[str, list[dict[str, Any]]], maps: Maps, runs: list[dict[str, Any]]) -> None:
    rates = sorted({run["lr"] for run in runs if run["kind"] == "tune"})
    tuned = {(run["arm"], run["lr"]): 100 * run["val_map"] for run in runs if run["kind"] == "tune"}
    print(f"| arm | parameters | validation mAP at lr {', '.join(map(str, rates))} | seeds | mAP | SD | hit@1 | P@10 |")
    print("|---|---|---|---|---|---|---|---|")
    for arm, of in arms.items():
        curve = ", ".join(
            f"**{v:.1f}**" if rate == of[0]["lr"] else f"{v:.1f}" for rate in rates for v in [tuned[arm, rate]]
        )
        means = maps[arm].mean(1)
        hit, precision = (100 * np.mean([run["test"][metric] for run in of]) for metric in ("hit@1", "precision@10"))
        print(
            f"| {arm} | {of[0]['parameters']:,} | {curve} | {len(of)} | {means.mean():.2f} | {means.std(ddof=1):.2f} "
            f"| {hit:.1f} | {precision:.1f} |"
        )


def _show_differences(
    maps: Maps, pairs: list[tuple[str, str]], labels: NDArray[np.int64], effects: Effects, *, adjust: bool
) -> None:
    ps = [p_over_runs(maps[a].mean(1), maps[b].mean(1))[0] for a, b in pairs]
    print(f"| difference | mAP points | 95 % interval | p{', adjusted' if adjust else ''} | seeds in favour | answer |")
    print("|---|---|---|---|---|---|")
    for (a, b), p in zip(pairs, holm(ps) if adjust else ps, strict=True):
        gaps = maps[a] - maps[b]
        both = (effects[a], effects[b]) if a in effects and b in effects else None
        low, high = _interval(gaps, 0.95, labels, both)
        inner = _interval(gaps, 0.90, labels, both)
        if p < 0.05:
            answer = "differs"
        elif inner[0] > -OF_INTEREST and inner[1] < OF_INTEREST:
            answer = "no difference of interest"
        else:
            answer = "not known"
        wins = int((gaps.mean(1) > 0).sum())
        of = f"{wins} of {len(gaps)}"
        print(f"| {a} less {b} | {gaps.mean():+.2f} | [{low:+.2f}, {high:+.2f}] | {p:.3f} | {of} | {answer} |")


def _interval(
    gaps: NDArray[np.float64], level: float, labels: NDArray[np.int64], effects: tuple[Influence, Influence] | None
) -> tuple[float, float]:
    """For other seeds and other images, of (seeds, queries) differences: both variances added, Satterthwaite's t.

    Without the effects of images on each other's rankings it is for other queries; of means alone, for other seeds.
    """
    parts = [(float(gaps.mean(1).var(ddof=1)) / len(gaps), len(gaps) - 1.0)]
    if gaps.shape[1] > 1:
        population: Population = "queries" if effects is None else "images"
        spread = difference_spread("map", gaps.mean(0), labels, population=population, influences=effects)
        assert spread is not None
        parts.append(spread)
    variance = sum(one for one, _ in parts)
    freedom = variance**2 / sum(one**2 / free for one, free in parts)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * variance**0.5
    return float(gaps.mean()) - half, float(gaps.mean()) + half


def _show_gates(arms: dict[str, list[dict[str, Any]]], maps: Maps, labels: NDArray[np.int64]) -> None:
    frozen, shuffled = _maps(arms, "test_gates_frozen"), _maps(arms, "test_gates_shuffled")
    print("| arm | frozen at their mean | 95 % interval | those of another image | 95 % interval |")
    print("|---|---|---|---|---|")
    for arm in arms:
        cells = []
        for other in (frozen[arm], shuffled[arm]):
            low, high = _interval(other - maps[arm], 0.95, labels, None)
            cells.append(f"{(other - maps[arm]).mean():+.2f} | [{low:+.2f}, {high:+.2f}]")
        print(f"| {arm} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
