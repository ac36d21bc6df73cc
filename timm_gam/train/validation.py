"""Validation is retrieval: held-out images ranked for each other. How they are scored is handed in (`Evaluator`)."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from timm_gam.core import World
from timm_gam.data import ImageSet
from timm_gam.embed import EmbedSettings, embed_images, embedding_network
from timm_gam.images import Preprocessing
from timm_gam.train.output.run_folder import RunFolder
from timm_gam.train.recipe import Recipe
from timm_gam.train.split import TrainingSplit

Result = TypeVar("Result", covariant=True)

SELECTION_METRIC = "map"
"""Chooses the best epoch: it sees the whole ranking, so it moves with less noise than hit@1."""

VALIDATION_METRICS = ("map", "hit@1", "hit@10", "precision@10")


class Evaluator(Protocol[Result]):
    """Scores retrieval for training, which itself knows no metric. `eval.RetrievalEvaluator` is one."""

    def validate(self, vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        """VALIDATION_METRICS -> micro average in [0, 1] of leave-one-out retrieval among (N, D) embeddings."""

    def test(
        self, folder: RunFolder, recipe: Recipe, images: ImageSet, split: TrainingSplit, *, device: str, note: str
    ) -> Result:
        """Score the test split with the run's best weights, and write the record into its folder."""


def validate(
    model: nn.Module,
    evaluator: Evaluator[object],
    images: ImageSet,
    split: TrainingSplit,
    preprocessing: Preprocessing,
    recipe: Recipe,
    world: World,
) -> dict[str, float]:
    """Leave-one-out retrieval among the validation images, each embedded by one process and scored once.

    Returns:
        VALIDATION_METRICS -> micro average in [0, 1], the same in every process.
    """
    rows = split.validation[world.rank :: world.size]
    vectors = torch.zeros(len(split.validation), int(model.num_features))  # type: ignore[arg-type]
    amp_dtype: torch.dtype | None = getattr(torch, recipe.amp_dtype) if recipe.amp else None
    model.eval()
    if len(rows):
        embedded = embed_images(
            embedding_network(model),
            images,
            preprocessing,
            EmbedSettings(
                batch_size=max(1, recipe.batch_size // world.size),
                workers=0 if world.device.type == "cpu" else recipe.workers,
                device=str(world.device),
                amp_dtype=amp_dtype,
                channels_last=recipe.channels_last,
                limits=recipe.limits,
            ),
            rows=rows,
        ).vectors
        vectors[world.rank :: world.size] = torch.from_numpy(embedded)
    gathered = world.sum(vectors.to(world.device)).cpu().numpy()
    return evaluator.validate(gathered, images.labels[split.validation])
