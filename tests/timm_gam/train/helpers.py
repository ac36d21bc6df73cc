"""Small recipes and image folders for training tests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import RetrievalEvaluator
from tests.shapes import draw_shapes
from timm_gam.train import Recipe, RunFolder, Trainer, train

SMALL: dict[str, Any] = {
    "model": "test_resnet_gam",
    "start": "scratch",
    "img_size": 32,
    "workers": 0,
    "device": "cpu",
    "deterministic": True,
    "epochs": 2,
    "batch_size": 8,
    "warmup_epochs": 0,
}
"""A recipe that trains in a second or two on a few images."""


def small_recipe(**changes: Any) -> Recipe:
    return Recipe(**{**SMALL, **changes})


def train_quietly(recipe: Recipe, path: Path, *, resume: bool = False) -> RunFolder:
    train(recipe, path, RetrievalEvaluator(), resume=resume, log=lambda line: None)
    return RunFolder(path)


def metrics(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def write_shapes(root: Path, classes: int, images: int) -> Path:
    """CLASS/NUMBER.png drawn by code, hard enough that validation moves."""
    drawn = draw_shapes(images)
    for row, image in drawn.reader.read(range(classes * images)):
        path = root / f"{drawn.ids[row]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((48, 48)).save(path)
    return root


def losses(folder: RunFolder) -> list[float]:
    return [float(row["train_loss"]) for row in metrics(folder)]


class Stop(Exception):  # noqa: N818
    """Stands for the process ending at once."""


def stop_after(updates: int, patch: pytest.MonkeyPatch) -> None:
    """Have a training end after so many updates."""
    update, done = Trainer._update, []

    def dies(self: Trainer, *arguments: Any) -> torch.Tensor:
        if len(done) == updates:
            raise Stop
        done.append(None)
        return update(self, *arguments)

    patch.setattr(Trainer, "_update", dies)
