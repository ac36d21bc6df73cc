"""All runs of the experiment in their order: pretraining, tuning, final runs; several side by side."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from eval.transfer.arms import Arm
from eval.transfer.runs import Run, Setting, finish, halves, read_record
from timm_gam.core import RunFolderError, atomic_path
from timm_gam.train import split_for_training

TUNING_SEED = 1000
"""Of the runs that choose a learning rate; no final run has it."""


def run_experiment(
    setting: Setting,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    lrs: Sequence[float],
    *,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Finish every run that has no record yet.

    Args:
        setting: What all runs share.
        arms: Networks to compare.
        seeds: One final run per arm and seed, paired by it.
        lrs: Learning rates that every arm is tuned over, on validation, with `TUNING_SEED`.
        jobs: Runs side by side, each in a process of one thread.
        say: Takes a line per finished run.
    """
    _write_data(setting)
    backbones = {arm.backbone: arm for arm in arms}.values()
    pretrain = [Run("pretrain", arm, seed, setting.pretrain_lr, seed) for seed in seeds for arm in backbones]
    _finish_all(setting, pretrain, jobs, say)
    tune = {arm.name: [Run("tune", arm, TUNING_SEED, lr, seeds[0]) for lr in lrs] for arm in arms}
    _finish_all(setting, [run for runs in tune.values() for run in runs], jobs, say)
    best = {name: max(runs, key=lambda run: _val_map(setting, run)).lr for name, runs in tune.items()}
    final = [Run("final", arm, seed, best[arm.name], seed) for seed in seeds for arm in arms]
    _finish_all(setting, final, jobs, say)


def _val_map(setting: Setting, run: Run) -> float:
    record = read_record(setting, run)
    assert record is not None  # finished just before
    return float(record["val_map"])


def _finish_all(setting: Setting, runs: Sequence[Run], jobs: int, say: Callable[[str], None]) -> None:
    missing = [run for run in runs if read_record(setting, run) is None]
    if jobs == 1 or len(missing) < 2:
        for run in missing:
            say(finish(setting, run))
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(finish, setting, run) for run in missing]
        try:
            for future in as_completed(futures):
                say(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_data(setting: Setting) -> None:
    """The halves and the classes of the test queries, or a refusal where OUTPUT holds other ones."""
    first, second = halves(setting.recipe)
    split = split_for_training(second, setting.recipe.val_share)
    about = {
        "schema": "timm-gam/transfer-data/1",
        "pretrain_classes": list(first.class_names),
        "classes": list(second.class_names),
        "images": {
            "pretrain": len(first),
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test.query),
        },
        "split_rule": split.test.split_rule,
        "validation_rule": split.validation_rule,
        "test_labels": second.labels[split.test.query].tolist(),
    }
    path = setting.output / "data.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != about:
            raise RunFolderError(f"'{setting.output}' holds the experiment of other images; name another --output")
        return
    setting.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in about.items()) + "\n}\n")
