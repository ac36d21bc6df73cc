"""One run of the experiment: pretraining, tuning or an arm's final run; a small record is what stays of it.

OUTPUT/data.json            the two halves of the classes, and the class of every test query
OUTPUT/starts/NAME.safetensors     pretrained plain weights, one per network and seed
OUTPUT/embeddings/NAME.npy  test embeddings of final runs, (Q, D) float32
OUTPUT/records/NAME.json    one per run: recipe, epochs, and of final runs the metrics of every test query
OUTPUT/work/NAME/           the run folder while it trains from files; removed when the record is written
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.transfer import wide  # noqa: F401  (registers the wide networks with timm)
from eval.transfer.arms import Arm
from eval.transfer.measuring import Measured, TransferEvaluator
from eval.transfer.resident import TimeUpError, train_resident
from timm_gam.core import DivergedError, atomic_path, hardware, versions
from timm_gam.data import ImageSet, published_class_split, take_classes
from timm_gam.models import count_macs
from timm_gam.train import Recipe, RunFolder, read_training_data, train

_DIGITS = 4  # of a query's metrics: a hundredth of a point


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        recipe: Data, size and fine-tuning budget; each run sets its model, start, seed and learning rate.
        pretrain_epochs: Of the plain network on the first half of the classes.
        pretrain_lr: Its learning rate.
        output: The folder of the experiment.
        resident: Keep all images on the device and augment there, see `eval.transfer.resident`.
        graphs: Capture each resident update as a CUDA graph.
        deadline: `time.time()` after which no run begins, and none of resident images goes on.
    """

    recipe: Recipe
    pretrain_epochs: int
    pretrain_lr: float
    output: Path
    resident: bool = False
    graphs: bool = False
    deadline: float = float("inf")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        kind: "pretrain", "tune" (its test split is never read) or "final".
        arm: The network and its start; of pretraining the plain one.
        seed: Of everything random; a final run starts from the pretraining of the same seed.
        lr: Learning rate.
        start_seed: Seed of the pretraining it starts from.
    """

    kind: str
    arm: Arm
    seed: int
    lr: float
    start_seed: int

    @property
    def name(self) -> str:
        if self.kind == "pretrain":
            return f"pretrain-{self.arm.backbone}-{self.seed}"
        return f"{self.kind}-{self.arm.name}-{self.seed}" + (f"-lr{self.lr:g}" if self.kind == "tune" else "")


def halves(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """The classes to pretrain on, and those held out by the published class split, to fine-tune on."""
    images = read_training_data(recipe).images
    held_out = published_class_split(images.class_names)
    first = take_classes(images, ~held_out, f"{images.name}, classes to pretrain on")
    return first, take_classes(images, held_out, f"{images.name}, held-out classes")


def record_path(setting: Setting, run: Run) -> Path:
    """Where the record of a run is or will be."""
    return setting.output / "records" / f"{run.name}.json"


def read_record(setting: Setting, run: Run) -> dict[str, Any] | None:
    """The record of a finished run, else None."""
    path = record_path(setting, run)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def finish(setting: Setting, run: Run) -> str | None:
    """Train a run, or go on where it was stopped, and write its record.

    Returns:
        One line that says how it went; None where time was up first.
    """
    if time.time() > setting.deadline:
        return None
    torch.set_num_threads(1)
    began = time.monotonic()
    recipe = _recipe(setting, run)
    first, second = halves(recipe)
    images = first if run.kind == "pretrain" else second
    record = {
        "schema": "timm-gam/transfer-run/1",
        "name": run.name,
        "kind": run.kind,
        "arm": run.arm.name,
        "seed": run.seed,
        "lr": run.lr,
        "recipe": {k: v for k, v in asdict(recipe).items() if k not in ("data_dir", "start")},
        "start": None if run.kind == "pretrain" else f"pretrain-{run.arm.backbone}-{run.start_seed}",
        "images": images.name,
        "resident": setting.resident,
    }
    size = (3, recipe.img_size or 224, recipe.img_size or 224)
    try:
        measured = _resident(setting, run, images) if setting.resident else _from_files(setting, run, images)
    except TimeUpError:
        return None
    except DivergedError as error:
        if run.kind == "pretrain":
            raise
        _write(setting, run, {**record, "val_map": 0.0, "diverged": str(error)}, began)
        return f"{run.name}: {error}"
    if measured.vectors is not None:
        vectors = setting.output / "embeddings" / f"{run.name}.npy"
        vectors.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(vectors) as temporary, temporary.open("wb") as file:
            np.save(file, measured.vectors, allow_pickle=False)
    best = max((row for row in measured.epochs if "val_map" in row), key=lambda row: row["val_map"])
    record |= {
        "macs": count_macs(recipe.model, len(images.class_names), size),
        "val_map": best["val_map"],
        "best_epoch": int(best["epoch"]),
        "epochs": measured.epochs,
        **measured.values,
    }
    seconds = _write(setting, run, record, began)
    test = measured.values.get("test")
    return (
        f"{run.name}: val mAP {100 * best['val_map']:.2f}"
        + (f", test mAP {100 * float(np.nanmean(test['map'])):.2f}" if test else "")
        + f", {seconds:.0f} s"
    )


def _resident(setting: Setting, run: Run, images: ImageSet) -> Measured:
    """Of a run over images in memory: short, so one that was interrupted begins anew."""
    return train_resident(
        _recipe(setting, run),
        images,
        TransferEvaluator(run.kind == "final", run.seed),
        graphs=setting.graphs,
        deadline=setting.deadline,
        keep=_start(setting, run) if run.kind == "pretrain" else None,
    )


def _from_files(setting: Setting, run: Run, images: ImageSet) -> Measured:
    """Of a run that trains as `python -m timm_gam.train` does, and is resumed as it is."""
    folder = RunFolder(setting.output / "work" / run.name)
    evaluator = TransferEvaluator(run.kind == "final", run.seed)
    train(_recipe(setting, run), folder.path, evaluator, images=images, resume=folder.state.exists(), say=_silent)
    with folder.metrics.open(encoding="utf-8") as lines:
        evaluator.measured.epochs = [
            {k: float(v) for k, v in row.items() if v and k != "memory_mb"} for row in csv.DictReader(lines)
        ]
    if run.kind == "pretrain":
        start = _start(setting, run)
        start.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(start) as temporary:
            shutil.copyfile(folder.best, temporary)
    return evaluator.measured


def _write(setting: Setting, run: Run, record: dict[str, Any], began: float) -> float:
    """Write the record and take the run folder away; the seconds that the run took."""
    seconds = round(time.monotonic() - began, 1)
    path = record_path(setting, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        whole = {**record, "seconds": seconds, "versions": versions(), "hardware": hardware()}
        temporary.write_text(_as_json(whole), encoding="utf-8")
    shutil.rmtree(setting.output / "work" / run.name, ignore_errors=True)
    return seconds


def _recipe(setting: Setting, run: Run) -> Recipe:
    common: dict[str, Any] = {"model": _model_of(run), "seed": run.seed, "lr": run.lr}
    if run.kind == "pretrain":
        return replace(setting.recipe, **common, start="scratch", epochs=setting.pretrain_epochs)
    return replace(
        setting.recipe,
        **common,
        start=str(_start(setting, run)),
        gate_init=run.arm.gate_init,
        attention_lr_scale=run.arm.attention_lr_scale,
    )


def _model_of(run: Run) -> str:
    return run.arm.backbone if run.kind == "pretrain" else run.arm.model


def _start(setting: Setting, run: Run) -> Path:
    return setting.output / "starts" / f"{run.arm.backbone}-{run.start_seed}.safetensors"


def _as_json(record: dict[str, Any]) -> str:
    """One line per key: per-query values stay short and diffs readable."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [int(v) if v in (0, 1) else round(v, _DIGITS) for v in value.tolist()]
        if isinstance(value, float):
            return round(value, 7)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    lines = [f" {json.dumps(key)}: {json.dumps(plain(value))}" for key, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _silent(line: str) -> None:
    pass
