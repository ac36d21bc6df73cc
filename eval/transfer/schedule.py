"""All runs of the experiment in their order: pretraining, tuning, final runs; several side by side."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any, Literal

from eval.transfer.arms import Arm
from eval.transfer.records import read_record, write_record
from eval.transfer.runs import finish
from eval.transfer.setting import Run, Setting, halves, work_path
from timm_gam.core import ALONE, RecipeError, RunFolderError, read_json, terminable
from timm_gam.train import TrainingData, check_batch, split_for_training

Kind = Literal["pretrain", "tune", "final"]
KINDS: tuple[Kind, ...] = ("pretrain", "tune", "final")

TUNING_SEED = 1000
"""Of the runs that choose a learning rate; no final run has it."""


class Experiment:
    """Runs that have no record yet are finished, several side by side; nothing is run twice.

    Args:
        setting: What all runs share.
        seeds: One final run per arm and seed, paired by it.
        lrs: Learning rates that every arm is tuned over, on validation, with `TUNING_SEED`.
        log: Takes a line per finished run.

    Raises:
        RecipeError: `seeds` has `TUNING_SEED`.
    """

    def __init__(
        self, setting: Setting, seeds: Sequence[int], lrs: Sequence[float], log: Callable[[str], None]
    ) -> None:
        if TUNING_SEED in seeds:
            raise RecipeError(f"seed {TUNING_SEED} came, which the runs that choose a learning rate have; give others")
        self.setting, self.seeds, self.lrs, self.log = setting, seeds, lrs, log
        self._pool: ProcessPoolExecutor | None = None
        self._start_time, self._done = time.monotonic(), 0

    @contextmanager
    def side_by_side(self, jobs: int) -> Iterator[None]:
        """Within: so many runs at a time, each in a process of one thread."""
        if jobs == 1:
            yield
            return
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        with terminable(), ProcessPoolExecutor(jobs, context, initializer=_set_stop, initargs=(stop,)) as pool:
            self._pool = pool
            try:
                yield
            except BaseException:
                # One run was asked to end, or this process was: none goes on alone, and none begins.
                stop.set()
                for process in multiprocessing.active_children():
                    process.terminate()  # a run that trains saves its state first
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self._pool = None

    def check(self, arms: Sequence[Arm], common_lr: float | None = None) -> None:
        """Refuse, before the first run, what a later one would be refused for.

        Raises:
            RecipeError: a value is illegal.
            RunFolderError: a record is damaged, or of a run by another recipe.
        """
        for kind in KINDS:
            for run in self._runs(kind, arms, common_lr):
                read_record(self.setting, run)

    def best_lr(self, arm: Arm) -> float | None:
        """The arm's learning rate of the best validation mAP; None where time was up before they were all tried."""
        records = {run.lr: read_record(self.setting, run) for run in self._runs("tune", [arm])}
        known = {lr: float(record["val_map"]) for lr, record in records.items() if record is not None}
        return max(known, key=known.__getitem__) if len(known) == len(records) else None

    def _runs(self, kind: Kind, arms: Sequence[Arm], common_lr: float | None = None) -> list[Run]:
        if kind == "pretrain":
            backbones, lr = {arm.backbone: arm for arm in arms}.values(), self.setting.pretrain_lr
            return [Run(kind, arm, seed, lr, seed) for seed in self.seeds for arm in backbones]
        if kind == "tune":
            return [Run(kind, arm, TUNING_SEED, lr, self.seeds[0]) for arm in arms for lr in self.lrs]
        rates = [(arm, common_lr if common_lr is not None else self.best_lr(arm)) for arm in arms]
        return [Run(kind, arm, seed, lr, seed) for seed in self.seeds for arm, lr in rates if lr is not None]

    def finish(self, kind: Kind, arms: Sequence[Arm], common_lr: float | None = None) -> None:
        """Finish the runs of a kind that have no record yet.

        Args:
            kind: "pretrain": the plain networks that these arms start from, one run per seed. "tune": one run per arm
                and learning rate, judged by validation alone. "final": one run per arm and seed, seed by seed, so that
                a set that time cuts short is balanced.
            arms: For final runs tuned before, or else
            common_lr: The learning rate of them all.
        """
        runs = self._runs(kind, arms, common_lr)
        missing = [run for run in runs if read_record(self.setting, run) is None]
        for run in set(runs).difference(missing):  # of one that was ended between its record and its end
            shutil.rmtree(work_path(self.setting, run), ignore_errors=True)
        if self._pool is None or len(missing) < 2:
            for run in missing:
                self._log_run(finish(self.setting, run))
            return
        futures = [self._pool.submit(_finish_in_pool, self.setting, run) for run in missing]
        for future in as_completed(futures):
            self._log_run(future.result())

    def _log_run(self, line: str | None) -> None:
        if line is not None:
            self._done += 1
            self.log(f"{line} (run {self._done}, minute {(time.monotonic() - self._start_time) / 60:.1f})")


_stop: list[Event] = []  # of a process of the pool: set once the experiment ends, as a pool hands out one run too many


def _set_stop(stop: Event) -> None:
    _stop.append(stop)
    # Killed while it takes its next run, a process would keep the lock of the queue, and the others wait for ever.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _finish_in_pool(setting: Setting, run: Run) -> str | None:
    """`finish`, in a process of the pool."""
    if any(stop.is_set() for stop in _stop):
        return None
    try:
        return finish(setting, run)
    except KeyboardInterrupt:
        for stop in _stop:
            stop.set()
        raise


def write_data(setting: Setting) -> None:
    """Look at the images and write data.json: the halves and the classes of the test queries.

    Raises:
        DataError: the images are too few, of all or of a half, to train on and to test with.
        RunFolderError: OUTPUT holds the experiment of other images.
    """
    recipe = setting.recipe
    first, second = halves(recipe)
    split = split_for_training(second, recipe.val_share, recipe.test_split)
    test = split.needed_test()
    pretraining = split_for_training(first, recipe.val_share, recipe.test_split)
    for images, part in ((first, pretraining), (second, split)):
        check_batch(recipe, TrainingData(images, part), ALONE)
    about = {
        "schema": "timm-gam/transfer-data/1",
        "pretrain_classes": list(first.class_names),
        "classes": list(second.class_names),
        "images": {
            "pretrain": len(first),
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(test.query),
        },
        "split_rule": test.split_rule,
        "validation_rule": split.validation_rule,
        "test_labels": second.labels[test.query].tolist(),
    }
    path = setting.output / "data.json"
    if path.exists():
        if read_json(path, dict[str, Any], RunFolderError, "name another --output") != about:
            raise RunFolderError(f"'{setting.output}' holds the experiment of other images; name another --output")
        return
    write_record(path, about)
