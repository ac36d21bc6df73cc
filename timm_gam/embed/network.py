"""The part of a timm model that turns pixels into embeddings."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from timm_gam.core import ModelError

__all__ = ["EmbeddingLayer", "embedding_network"]

EmbeddingLayer = Literal["pooled", "pre_logits"]
"""The globally pooled feature map, or the input of the classifier; the same where no layer lies between them."""


def embedding_network(model: nn.Module, layer: EmbeddingLayer = "pooled") -> nn.Module:
    """The network from pixels to embeddings: (B, 3, H, W) float -> (B, D) float.

    Args:
        model: A timm model.
        layer: "pooled": D = model.num_features; "pre_logits": D = model.head_hidden_size.

    Raises:
        ModelError: "pooled" is asked of a model whose pooling cannot be told from its head.
    """
    hidden = getattr(model, "head_hidden_size", None)
    if layer == "pre_logits" or hidden is None or hidden == model.num_features:
        return _PreLogits(model)
    pool = getattr(model, "global_pool", None)
    if not isinstance(pool, nn.Module):
        pool = getattr(getattr(model, "head", None), "global_pool", None)
    if not isinstance(pool, nn.Module):
        raise ModelError(f"{type(model).__name__} does not say how it pools its features; use the layer pre_logits")
    return _Pooled(model, pool)


class _PreLogits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)  # type: ignore[operator]
        return out.flatten(1)


class _Pooled(nn.Module):
    def __init__(self, model: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.model.forward_features(x))  # type: ignore[operator]
        return out.flatten(1)
