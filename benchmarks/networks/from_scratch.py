"""Plain, SE, CBAM and GAM ResNets trained from scratch on one GPU, images kept on it; several runs side by side.

    python benchmarks/networks/from_scratch.py --data-dir coreldb --graphs --time-limit 250
    python benchmarks/networks/from_scratch.py --table    # the figures of MODEL_CARD.md, from the committed records

Runs go seed by seed, and a seed begins when the one before it is whole. A record per run lies in --output: recipe,
epochs, and the metrics of every test query; a run that has one is not made again. Weights are not kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.arguments.shared import add_image_options, recipe_of
from timm_gam.core import run_command
from timm_gam.train import Recipe

RESULTS = Path(__file__).parents[1] / "results" / "from_scratch"
VARIANTS = ("_gam", "_cbam", "_se", "")  # the longest first
KEPT = ("hit@1", "hit@10", "precision@10", "map")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_image_options(parser)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "from_scratch_resnet50.yaml")
    parser.add_argument("--family", default="resnet50", help="(default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--jobs", type=int, default=4, help="runs side by side (default: %(default)s)")
    parser.add_argument("--graphs", action="store_true", help="an update as CUDA graphs, where they agree")
    parser.add_argument("--time-limit", type=float, default=float("inf"), metavar="SECONDS", help="stop by then")
    parser.add_argument("--output", type=Path, default=RESULTS, help="(default: the committed records)")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    args = parser.parse_args()
    sys.exit(
        run_command(lambda: run(args), interrupted="interrupted; the same command makes the runs that are missing")
    )


def run(args: argparse.Namespace) -> None:
    if not args.table:
        train(args, time.time() + args.time_limit)
    show(args.output)


def train(args: argparse.Namespace, deadline: float) -> None:
    """Make the missing records."""
    recipe = recipe_of(args)
    args.output.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed in dict.fromkeys(args.seeds):
            recipes = [replace(recipe, model=f"{args.family}{variant}", seed=seed) for variant in VARIANTS]
            missing = [one for one in recipes if not _record(args.output, one).exists()]
            futures = [pool.submit(finish, one, _record(args.output, one), args.graphs, deadline) for one in missing]
            for future in as_completed(futures):
                print(future.result(), flush=True)


def finish(recipe: Recipe, path: Path, graphs: bool, deadline: float) -> str:
    """Train and measure one network, and write its record; one line that says how it went."""
    import torch

    from eval.transfer.measuring import TransferEvaluator
    from eval.transfer.resident import TimeUpError, train_resident
    from timm_gam.core import DivergedError, atomic_path, hardware, versions
    from timm_gam.train import read_training_data

    torch.set_num_threads(1)
    began = time.monotonic()
    images = read_training_data(recipe).images
    record: dict[str, Any] = {
        "schema": "timm-gam/from-scratch/1",
        "model": recipe.model,
        "seed": recipe.seed,
        "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("data_dir", "start")},
        "images": images.name,
    }
    try:
        evaluator = TransferEvaluator(final=True, seed=recipe.seed)
        train_resident(recipe, images, evaluator, graphs=graphs, deadline=deadline)
    except TimeUpError:
        return f"{path.stem}: out of time"
    except DivergedError as error:
        record["diverged"] = str(error)
    else:
        record |= {"epochs": evaluator.epochs, **evaluator.values}
    record |= {"seconds": round(time.monotonic() - began, 1), "versions": versions(), "hardware": hardware()}
    lines = [f" {json.dumps(key)}: {json.dumps(_plain(value))}" for key, value in record.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return f"{path.stem}: {record.get('diverged') or _means(record)}, {record['seconds']:.0f} s"


def show(output: Path) -> None:
    """Print mean and standard deviation over seeds, and each network less plain of the same seed."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*.json"))]
    plain = {one["seed"]: one for one in records if not _gated(one["model"]) and "test" in one}
    print("| model | seeds | hit@1 | hit@10 | precision@10 | mAP | mAP less plain, by seed |\n|" + "---|" * 7)
    for model in sorted({one["model"] for one in records}):
        runs = [one for one in records if one["model"] == model and "test" in one]
        values = 100 * np.array([[np.mean(run["test"][name]) for name in KEPT] for run in runs])
        spread = values.std(0, ddof=1) if len(runs) > 1 else np.full(len(KEPT), np.nan)
        cells = [
            f"{mean:.2f}" + ("" if np.isnan(sd) else f" ± {sd:.2f}")
            for mean, sd in zip(values.mean(0), spread, strict=True)
        ]
        gaps = [_gap(run, plain[run["seed"]]) for run in runs if run["seed"] in plain and _gated(model)]
        print(f"| {model} | {len(runs)} | {' | '.join(cells)} | {', '.join(gaps)} |")


def _gap(run: dict[str, Any], plain: dict[str, Any]) -> str:
    return f"{100 * (np.mean(run['test']['map']) - np.mean(plain['test']['map'])):+.2f}"


def _gated(model: str) -> bool:
    return model.endswith(VARIANTS[:-1])


def _means(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {100 * float(np.mean(record['test'][name])):.2f}" for name in KEPT)


def _record(output: Path, recipe: Recipe) -> Path:
    return output / f"{recipe.model}-{recipe.seed}.json"


def _plain(value: Any) -> Any:
    """JSON's types, a query's metrics to a hundredth of a point."""
    if isinstance(value, np.ndarray):
        return [int(one) if one in (0, 1) else round(one, 4) for one in value.tolist()]
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
