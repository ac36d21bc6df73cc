"""What all runs of the experiment share, what one run is, and the recipe and the images that follow from both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.transfer import wide  # noqa: F401  (registers the wide networks with timm)
from eval.transfer.arms import Arm
from timm_gam.core import DataError
from timm_gam.data import ImageSet, published_class_split, take_classes
from timm_gam.train import Recipe, read_training_data

_LEAST_CLASSES = 2  # of a half: with one, every ranking is right


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
    """The classes to pretrain on, and those held out by the published class split, to fine-tune on.

    Raises:
        DataError: a half would have a single class.
    """
    images = read_training_data(recipe).images
    held_out = published_class_split(images.class_names)
    least = min(np.count_nonzero(held_out), np.count_nonzero(~held_out))
    if least < _LEAST_CLASSES:
        raise DataError(
            f"'{images.name}' has {len(images.class_names)} classes; half are for pretraining, half for fine-tuning, "
            f"and each half needs {_LEAST_CLASSES}: give at least {2 * _LEAST_CLASSES}"
        )
    first = take_classes(images, ~held_out, f"{images.name}, classes to pretrain on")
    return first, take_classes(images, held_out, f"{images.name}, held-out classes")


def recipe_of_run(setting: Setting, run: Run) -> Recipe:
    """The recipe of a run: the shared one with its own model, start, seed and learning rate.

    Raises:
        RecipeError: a value is illegal.
    """
    model = run.arm.backbone if run.kind == "pretrain" else run.arm.model
    common: dict[str, Any] = {"model": model, "seed": run.seed, "lr": run.lr}
    if run.kind == "pretrain":
        return replace(setting.recipe, **common, start="scratch", epochs=setting.pretrain_epochs)
    return replace(
        setting.recipe,
        **common,
        start=str(start_path(setting, run)),
        gate_init=run.arm.gate_init,
        attention_lr_scale=run.arm.attention_lr_scale,
    )


def start_path(setting: Setting, run: Run) -> Path:
    """The plain weights that pretraining writes and the other runs start from."""
    return setting.output / "starts" / f"{run.arm.backbone}-{run.start_seed}.safetensors"


def work_path(setting: Setting, run: Run) -> Path:
    """The run folder while a run trains from files."""
    return setting.output / "work" / run.name
