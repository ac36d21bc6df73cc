"""Validation is retrieval: held-out images ranked for each other by the evaluation's own functions."""

from __future__ import annotations

import torch
from torch import nn

from eval.distributed import World
from eval.embedding import embed_images
from eval.images import ImageSet
from eval.models import embedding_network
from eval.preprocessing import Preprocessing
from eval.scoring import score_retrieval
from timm_gam.train.recipe import Recipe
from timm_gam.train.split import TrainingSplit

__all__ = ["SELECTION_METRIC", "VALIDATION_METRICS", "validate"]

SELECTION_METRIC = "map"
"""Chooses the best epoch: it sees the whole ranking, so it moves with less noise than hit@1."""

VALIDATION_METRICS = ("map", "hit@1", "hit@10", "precision@10")


def validate(
    model: nn.Module,
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
            rows=rows,
            batch_size=max(1, recipe.batch_size // world.size),
            workers=0 if world.device.type == "cpu" else recipe.workers,
            device=world.device,
            amp_dtype=amp_dtype,
            channels_last=recipe.channels_last,
        ).vectors
        vectors[world.rank :: world.size] = torch.from_numpy(embedded)
    gathered = world.sum(vectors.to(world.device)).cpu().numpy()
    scores = score_retrieval(gathered, images.labels[split.validation], ks=(1, 10), replicates=0)
    return {name: float(scores.averages[name].micro) for name in VALIDATION_METRICS}
