"""One run of the experiment: pretraining, tuning or an arm's final run; a small record is what stays of it.

OUTPUT/data.json            the two halves of the classes, and the class of every test query
OUTPUT/starts/NAME.safetensors     pretrained plain weights, one per network and seed
OUTPUT/embeddings/NAME.npy  test embeddings of final runs, (Q, D) float32
OUTPUT/records/NAME.json    one per run: recipe, epochs, and of final runs the metrics of every test query
OUTPUT/work/NAME/           the run folder while it trains from files; removed when the record is written
"""

from __future__ import annotations

import csv
import shutil
import time
from typing import Any

import numpy as np
import timm
import torch

from eval.transfer.measuring import TransferEvaluator
from eval.transfer.records import about, record_path, write_record
from eval.transfer.resident import TimeUpError, train_resident
from eval.transfer.setting import Run, Setting, halves, recipe_of_run, start_path, work_path
from timm_gam.core import DivergedError, RunFolderError, atomic_path, hardware, versions
from timm_gam.data import ImageSet
from timm_gam.models import count_macs
from timm_gam.train import RunFolder, train


def finish(setting: Setting, run: Run) -> str | None:
    """Train a run, or go on where it was stopped, and write its record.

    Returns:
        One line that says how it went; None where time was up first.
    """
    if time.time() > setting.deadline:
        return None
    torch.set_num_threads(1)
    began = time.monotonic()
    recipe = recipe_of_run(setting, run)
    first, second = halves(recipe)
    images = first if run.kind == "pretrain" else second
    record = {**about(setting, run), "images": images.name}
    start = start_path(setting, run)
    if run.kind != "pretrain" and not start.exists():
        raise RunFolderError(
            f"no file '{start}' for {run.name} to start from; remove the record '{record['start']}.json', and the same "
            "command pretrains it again"
        )
    size = (3, recipe.img_size or 224, recipe.img_size or 224)
    evaluator, keep = TransferEvaluator(run.kind == "final", run.seed), start if run.kind == "pretrain" else None
    try:
        if setting.resident:  # short, so one that was interrupted begins anew
            train_resident(recipe, images, evaluator, graphs=setting.graphs, deadline=setting.deadline, keep=keep)
        else:
            _from_files(setting, run, images, evaluator)
    except TimeUpError:
        return None
    except DivergedError as error:
        if run.kind == "pretrain":
            raise
        _write(setting, run, {**record, "val_map": 0.0, "diverged": str(error)}, began)
        return f"{run.name}: {error}"
    if evaluator.vectors is not None:
        vectors = setting.output / "embeddings" / f"{run.name}.npy"
        vectors.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(vectors) as temporary, temporary.open("wb") as file:
            np.save(file, evaluator.vectors, allow_pickle=False)
    best = max((row for row in evaluator.epochs if "val_map" in row), key=lambda row: row["val_map"])
    record |= {
        "macs": count_macs(timm.create_model(recipe.model, num_classes=len(images.class_names), device="meta"), size),
        "val_map": best["val_map"],
        "best_epoch": int(best["epoch"]),
        "epochs": evaluator.epochs,
        **evaluator.values,
    }
    seconds = _write(setting, run, record, began)
    test = evaluator.values.get("test")
    return (
        f"{run.name}: val mAP {100 * best['val_map']:.2f}"
        + (f", test mAP {100 * float(np.nanmean(test['map'])):.2f}" if test else "")
        + f", {seconds:.0f} s"
    )


def _from_files(setting: Setting, run: Run, images: ImageSet, evaluator: TransferEvaluator) -> None:
    """Of a run that trains as `python -m timm_gam.train` does, and is resumed as it is."""
    folder = RunFolder(work_path(setting, run))
    resume, recipe = folder.state.exists(), recipe_of_run(setting, run)
    train(recipe, folder.path, evaluator, images=images, resume=resume, log=lambda line: None)
    with folder.metrics.open(encoding="utf-8") as lines:
        evaluator.epochs = [
            {k: float(v) for k, v in row.items() if v and k != "memory_mb"} for row in csv.DictReader(lines)
        ]
    if run.kind == "pretrain":
        start = start_path(setting, run)
        start.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(start) as temporary:
            shutil.copyfile(folder.best, temporary)


def _write(setting: Setting, run: Run, record: dict[str, Any], began: float) -> float:
    """Write the record and take the run folder away; the seconds that the run took."""
    seconds = round(time.monotonic() - began, 1)
    whole = {**record, "seconds": seconds, "versions": versions(), "hardware": hardware()}
    write_record(record_path(setting, run), whole)
    shutil.rmtree(work_path(setting, run), ignore_errors=True)
    return seconds
