"""One run of the experiment: pretraining, tuning or an arm's final run; a small record is what stays of it.

OUTPUT/data.json            the two halves of the classes, and the class of every test query
OUTPUT/starts/NAME.safetensors     pretrained plain weights, one per network and seed
OUTPUT/embeddings/NAME.npy  test embeddings of final runs, (Q, D) float32
OUTPUT/records/NAME.json    one per run: recipe, epochs, and of final runs the metrics of every test query
OUTPUT/work/NAME/           the run folder while it trains; removed when the record is written
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.evaluator import RetrievalEvaluator
from eval.scoring.retrieval_scores import score_retrieval
from eval.transfer import wide  # noqa: F401  (registers the wide networks with timm)
from eval.transfer.arms import Arm
from timm_gam.core import atomic_path, hardware, versions
from timm_gam.data import ImageSet, published_class_split, read_images, take_classes
from timm_gam.embed import EmbedSettings, embed_images, embedding_network
from timm_gam.images import resolve_preprocessing
from timm_gam.models import (
    count_macs,
    frozen_gates,
    gate_layers,
    load_model,
    measure_gates,
    shuffled_gates,
)
from timm_gam.train import Recipe, RunFolder, TrainingSplit, train

PER_QUERY = ("map", "hit@1", "precision@10")
_DIGITS = 4  # of a query's metrics: a hundredth of a point


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        recipe: Data, size and fine-tuning budget; each run sets its model, start, seed and learning rate.
        pretrain_epochs: Of the plain network on the first half of the classes.
        pretrain_lr: Its learning rate.
        output: The folder of the experiment.
    """

    recipe: Recipe
    pretrain_epochs: int
    pretrain_lr: float
    output: Path


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
    images = read_images(
        recipe.data_dir,
        recipe.dataset,
        image_column=recipe.image_column,
        label_column=recipe.label_column,
        id_column=recipe.id_column,
    )
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


def finish(setting: Setting, run: Run) -> str:
    """Train a run, or go on where it was stopped, and write its record; one line that says how it went."""
    torch.set_num_threads(1)
    began = time.monotonic()
    first, second = halves(setting.recipe)
    images = first if run.kind == "pretrain" else second
    folder = RunFolder(setting.output / "work" / run.name)
    evaluator = _Evaluator(run)
    train(_recipe(setting, run), folder.path, evaluator, images=images, resume=folder.state.exists(), say=_silent)
    with folder.metrics.open(encoding="utf-8") as lines:
        epochs = [{k: float(v) for k, v in row.items() if v and k != "memory_mb"} for row in csv.DictReader(lines)]
    best = max((row for row in epochs if "val_map" in row), key=lambda row: row["val_map"])
    size = (3, setting.recipe.img_size or 224, setting.recipe.img_size or 224)
    classes = len(images.class_names)
    model = _model_of(run)
    record = {
        "schema": "timm-gam/transfer-run/1",
        "name": run.name,
        "kind": run.kind,
        "arm": run.arm.name,
        "seed": run.seed,
        "lr": run.lr,
        "recipe": {k: v for k, v in asdict(_recipe(setting, run)).items() if k not in ("data_dir", "start")},
        "start": None if run.kind == "pretrain" else f"pretrain-{run.arm.backbone}-{run.start_seed}",
        "images": images.name,
        "macs": count_macs(model, classes, size),
        "val_map": best["val_map"],
        "best_epoch": int(best["epoch"]),
        "epochs": epochs,
        **evaluator.measured,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "hardware": hardware(),
    }
    if run.kind == "pretrain":
        start = _start(setting, run)
        start.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(start) as temporary:
            shutil.copyfile(folder.best, temporary)
    if evaluator.vectors is not None:
        vectors = setting.output / "embeddings" / f"{run.name}.npy"
        vectors.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(vectors) as temporary, temporary.open("wb") as file:
            np.save(file, evaluator.vectors, allow_pickle=False)
    path = record_path(setting, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(_as_json(record), encoding="utf-8")
    shutil.rmtree(folder.path)
    return (
        f"{run.name}: val mAP {100 * best['val_map']:.2f}"
        + (f", test mAP {100 * float(np.nanmean(record['test']['map'])):.2f}" if run.kind == "final" else "")
        + f", {record['seconds']:.0f} s"
    )


class _Evaluator(RetrievalEvaluator):
    """Validates as training does; reads the test split of final runs alone, and looks at their gates as well."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.measured: dict[str, Any] = {}
        self.vectors: NDArray[np.float32] | None = None

    def test(  # type: ignore[override]
        self, folder: RunFolder, recipe: Recipe, images: ImageSet, split: TrainingSplit, *, device: str, note: str
    ) -> None:
        model = load_model(recipe.model, checkpoint=folder.best).model
        model.to(device)
        self.measured["parameters"] = sum(p.numel() for p in model.parameters())
        if self.run.kind != "final":
            return
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)

        def pixels(rows: NDArray[np.int64]) -> Tensor:
            settings = EmbedSettings(batch_size=64, workers=0, device="cpu")
            flat = embed_images(nn.Flatten(), images, preprocessing, settings, rows=rows).vectors
            return torch.from_numpy(flat).view(-1, *preprocessing.input_size).to(device)

        test = pixels(split.test.query)
        labels = images.labels[split.test.query]
        order = np.random.Generator(np.random.PCG64(self.run.seed)).permutation(len(test))
        self.measured["test"] = _scores(model, test, labels)
        self.vectors = _vectors(model, test)
        if not any(True for _ in gate_layers(model)):
            return
        # The mean is taken over a share of the training images: test images decide nothing.
        uses = measure_gates(model, _batches(pixels(split.train[:: max(1, len(split.train) // 1000)])))
        self.measured["gates"] = [
            {"layer": name, "level": use.level, "over_images": use.over_images, "over_values": use.over_values}
            for name, use in uses.items()
        ]
        with frozen_gates(model, uses):
            self.measured["test_gates_frozen"] = {"map": _scores(model, test, labels)["map"]}
        with shuffled_gates(model):
            shuffled = _scores(model, test[order], labels[order])
        back = np.argsort(order)
        self.measured["test_gates_shuffled"] = {"map": shuffled["map"][back]}


def _scores(model: nn.Module, pixels: Tensor, labels: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Leave-one-out metrics of each query."""
    per_query = score_retrieval(_vectors(model, pixels), labels, ks=(1, 10), replicates=0).per_query
    return {name: per_query[name] for name in PER_QUERY}


def _vectors(model: nn.Module, pixels: Tensor) -> NDArray[np.float32]:
    network = embedding_network(model)
    with torch.inference_mode():
        vectors: NDArray[np.float32] = torch.cat([network(batch) for batch in _batches(pixels)]).cpu().numpy()
    return vectors


def _batches(pixels: Tensor) -> Iterator[Tensor]:
    return iter(pixels.split(64))  # type: ignore[no-untyped-call]


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
