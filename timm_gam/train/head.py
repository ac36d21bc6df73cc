"""Training a head on frozen embeddings: seconds on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import DataError, DivergedError, ProgressBar, RecipeError, no_progress
from timm_gam.embed import Head, HeadFacts, power_of
from timm_gam.rerank import fit_whitening
from timm_gam.train.recipe import Loss
from timm_gam.train.step.objective import proxy_loss
from timm_gam.train.step.seeds import seed_for

HEAD_LOSSES: tuple[str, ...] = ("whitening", *get_args(Loss))

_PROXY_RATE = 10.0  # learning rate of the proxies, as a multiple


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained; the defaults are the command line's.

    Raises:
        RecipeError: a value that is not legal.
    """

    loss: str = "proxy-anchor"  # of HEAD_LOSSES; whitening needs no labels and is one linear layer
    hidden: int = 1024  # units between two layers; 0: one linear layer
    dim: int = 512  # of the vectors that come out
    epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-3  # AdamW, at the start; it rises to ten times that and falls to nothing (one cycle)
    power: float = 0.5  # of the embeddings that go in
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in HEAD_LOSSES:
            raise RecipeError(f"loss is '{self.loss}'; legal: {', '.join(HEAD_LOSSES)}")
        if (
            min(self.dim, self.epochs, self.batch_size) < 1
            or self.hidden < 0
            or self.lr <= 0
            or not 0 < self.power <= 1
        ):
            raise RecipeError(
                f"dim {self.dim}, epochs {self.epochs}, batch size {self.batch_size}, hidden {self.hidden}, lr "
                f"{self.lr:g}, power {self.power:g}: hidden may be 0, power lies in (0, 1], the others above 0"
            )


def train_head(
    embeddings: Tensor,
    labels: Tensor,
    recipe: HeadRecipe,
    *,
    progress: ProgressBar = no_progress,
    **facts: Any,
) -> Head:
    """Train a head on embeddings of training images.

    By a loss of `timm_gam.train.step.objective.proxy_loss`, or by whitening.

    Args:
        embeddings: (N, D) float, of training images only.
        labels: (N,) int64, any numbers.
        recipe: How.
        progress: Makes a progress bar.
        facts: Of `HeadFacts`, but for what the recipe says.

    Raises:
        RecipeError: pytorch-metric-learning is not installed.
        DataError: fewer than two classes, or a whitening to more dimensions than the embeddings span.
        DivergedError: the loss is not finite.

    >>> points = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> recipe = HeadRecipe(hidden=0, dim=4, epochs=1, batch_size=16)
    >>> head = train_head(points, torch.arange(64) % 4, recipe, weights="0" * 64, layer="pooled", trained_on="points")
    >>> head(points).shape
    torch.Size([64, 4])
    """
    made = HeadFacts(loss=recipe.loss, power=recipe.power, **facts)
    vectors = F.normalize(power_of(embeddings.float(), recipe.power), dim=1)
    if recipe.loss == "whitening":
        whitening = fit_whitening(vectors, recipe.dim)
        return Head(made, whitening.mean, [whitening.projection], [torch.zeros(len(whitening.projection))]).eval()
    names, classes = torch.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise DataError("a head needs images of two classes at least")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.seed, "head"))
        return _learned(vectors, classes, recipe, made, progress).eval().requires_grad_(False)


def _learned(vectors: Tensor, classes: Tensor, recipe: HeadRecipe, facts: HeadFacts, progress: ProgressBar) -> Head:
    mean = vectors.mean(dim=0)
    spread = (vectors - mean).std()
    inputs = (vectors - mean) / spread
    first = nn.Linear(vectors.shape[1], recipe.hidden or recipe.dim)
    layers = [first, nn.Linear(recipe.hidden, recipe.dim)] if recipe.hidden else [first]
    network = nn.Sequential(first, nn.ReLU(), layers[1]) if recipe.hidden else first
    loss = proxy_loss(recipe.loss, int(classes.max()) + 1, recipe.dim)
    size = min(recipe.batch_size, len(vectors))
    updates = len(vectors) // size
    rates = [recipe.lr, recipe.lr * _PROXY_RATE]
    optimizer = torch.optim.AdamW(
        [{"params": network.parameters(), "weight_decay": 1e-4}, {"params": loss.parameters(), "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [10 * rate for rate in rates], div_factor=10, total_steps=recipe.epochs * updates
    )
    with progress(f"head, {recipe.loss}", "epoch", recipe.epochs) as on_progress:
        for _ in range(recipe.epochs):
            order = torch.randperm(len(vectors))
            for update in range(updates):
                rows = order[update * size : (update + 1) * size]
                value = loss(network(inputs[rows]), classes[rows])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
            if not math.isfinite(last := value.item()):
                raise DivergedError(f"the loss of the head is {last}; lower --lr")
            if not all(parameter.isfinite().all() for parameter in network.parameters()):
                raise DivergedError("weights of the head are not finite; lower --lr")
            on_progress(1)
    weights = [first.weight.detach() / spread, *(layer.weight.detach() for layer in layers[1:])]
    return Head(facts, mean, weights, [layer.bias.detach() for layer in layers])
