"""From a batch to a loss, as one module, so that all that is trained moves, compiles and synchronises together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import RecipeError
from timm_gam.embed import embedding_network
from timm_gam.train.recipe import Recipe


class Objective(nn.Module):
    """A loss around a model: (B, 3, H, W) float pixels and (B,) int64 classes -> the batch's loss, () float32.

    Here cross-entropy of the model's own classifier; targets may also be (B, C) float shares of each class (mixup).

    Attributes:
        model: The timm model in training.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        smoothing = self.label_smoothing if target.ndim == 1 else 0.0  # mixup has smoothed the shares
        return F.cross_entropy(self.model(pixels).float(), target, label_smoothing=smoothing)

    def set_classifier(self, model: nn.Module) -> None:
        """Make the classifier of `model`, this one or an average of it, what the loss has learnt of the classes."""


class ProxyObjective(Objective):
    """A metric-learning loss between the pooled embeddings that are scored and one learnt proxy per class.

    The classifier takes no part; `set_classifier` gives it the proxies, so that it ranks classes
    by cosine.
    """

    def __init__(self, model: nn.Module, loss: str, num_classes: int) -> None:
        super().__init__(model)
        self._embed = (embedding_network(model),)  # in a tuple: its parameters are those of `model`, registered once
        self.loss = proxy_loss(loss, num_classes, int(model.num_features))  # type: ignore[arg-type]
        classifier = model.get_classifier()  # type: ignore[operator]
        if not isinstance(classifier, nn.Linear) or classifier.in_features != model.num_features:
            raise RecipeError(
                f"loss {loss} needs a model whose classifier is one linear layer over its pooled features"
            )
        classifier.requires_grad_(False)

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        embeddings = self._embed[0](pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.loss(embeddings.float(), target)  # type: ignore[no-any-return]

    @torch.no_grad()
    def set_classifier(self, model: nn.Module) -> None:
        proxies = self.loss.W.t() if hasattr(self.loss, "W") else self.loss.proxies
        classifier = model.get_classifier()  # type: ignore[operator]
        classifier.weight.copy_(F.normalize(proxies))
        if classifier.bias is not None:
            classifier.bias.zero_()


def proxy_loss(name: str, num_classes: int, dim: int) -> Any:
    """A loss between (B, D) embeddings and one learnt proxy per class, from pytorch-metric-learning with its defaults.

    ArcFace (Deng et al., arXiv 1801.07698), Proxy-Anchor (Kim et al., arXiv 2003.13911) or cross-entropy over cosines
    (Zhai, Wu, arXiv 1811.12649).

    Raises:
        RecipeError: the package is not installed.
    """
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise RecipeError(
            f"loss {name} needs pytorch-metric-learning; pip install 'timm-gam[metric-learning]'"
        ) from error
    kinds = {
        "cross-entropy": losses.NormalizedSoftmaxLoss,
        "arcface": losses.ArcFaceLoss,
        "proxy-anchor": losses.ProxyAnchorLoss,
    }
    return kinds[name](num_classes, dim)


def create_objective(model: nn.Module, recipe: Recipe, num_classes: int) -> Objective:
    """The recipe's loss around `model`.

    Raises:
        RecipeError: its package is not installed, or the model has no fitting classifier.
    """
    if recipe.loss == "cross-entropy":
        return Objective(model, recipe.label_smoothing)
    return ProxyObjective(model, recipe.loss, num_classes)
