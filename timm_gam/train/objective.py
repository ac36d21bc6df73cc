"""From a batch to a loss, as one module, so that all that is trained moves, compiles and synchronises together."""

from __future__ import annotations

import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from timm_gam.train.errors import RecipeError
from timm_gam.train.recipe import Recipe

__all__ = ["Objective", "create_objective"]


class Objective(nn.Module):
    """Cross-entropy of the model's classifier.

    Args:
        model: A timm model whose classifier has C classes.
        label_smoothing: In [0, 1).
    """

    def __init__(self, model: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing
        self.soft = SoftTargetCrossEntropy()

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            target: (B,) int64 classes, or (B, C) float shares of each class (mixup).
        """
        logits = self.model(pixels).float()
        if target.ndim == 2:
            return self.soft(logits, target)  # type: ignore[no-any-return]
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)


def create_objective(model: nn.Module, recipe: Recipe) -> Objective:
    """The recipe's loss around `model`."""
    if recipe.loss != "cross-entropy":
        raise RecipeError("not yet")
    return Objective(model, recipe.label_smoothing)
