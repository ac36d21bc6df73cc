"""The part of a timm model that turns pixels into embeddings, and several views of an image embedded as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import ModelError
from timm_gam.embed.network.pooling import Pooling, SpatialPooling

EmbeddingLayer = Literal["pooled", "pre_logits"]
"""The globally pooled feature map, or the input of the classifier; the same where no layer lies between them."""


def embedding_network(
    model: nn.Module,
    layer: EmbeddingLayer = "pooled",
    *,
    pool: Pooling | None = None,
    stages: Sequence[int] = (),
) -> nn.Module:
    """The network from pixels to embeddings: (B, 3, H, W) float -> (B, D) float.

    Args:
        model: A timm model.
        layer: "pooled": D = model.num_features; "pre_logits": D = model.head_hidden_size.
        pool: How the last feature map is pooled; default as the model does. The layer is "pooled" then.
        stages: Earlier feature maps, by their numbers in timm's `forward_intermediates`, that are pooled (by the
            average, unless `pool` says otherwise) and stand before the last; each part has length 1.

    Raises:
        ModelError: "pooled" is asked of a model whose pooling cannot be told from its head; or features without places.

    >>> import timm, torch
    >>> model = timm.create_model("test_resnet").eval()
    >>> embedding_network(model, pool="gem", stages=[3])(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 288])
    """
    if pool is not None or stages:
        return SpatialPooling(model, pool or "avg", stages)
    hidden = getattr(model, "head_hidden_size", None)
    if layer == "pre_logits" or hidden is None or hidden == model.num_features:
        return _Embedding(model, None)
    pool = getattr(model, "global_pool", None)
    if not isinstance(pool, nn.Module):
        pool = getattr(getattr(model, "head", None), "global_pool", None)
    if not isinstance(pool, nn.Module):
        raise ModelError(f"{type(model).__name__} does not say how it pools its features; use the layer pre_logits")
    return _Embedding(model, pool)


class _Embedding(nn.Module):
    def __init__(self, model: nn.Module, pool: nn.Module | None) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model.forward_features(x)  # type: ignore[operator]
        out = self.model.forward_head(out, pre_logits=True) if self.pool is None else self.pool(out)  # type: ignore[operator]
        return out.flatten(1)


class Views(nn.Module):
    """(B, 3, H, W) float -> (B, D) float: the mean of a network's vectors of every view.

    Test-time augmentation as in Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation"
    (TPAMI 2019), section 5.2, by the mean.

    Args:
        network: (B, 3, H, W) -> (B, D).
        flip: Also the mirror image of each view.
        scales: Sides of each view relative to the input; 0.5 halves them.

    >>> Views(nn.Flatten(), flip=True)(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, network: nn.Module, *, flip: bool = False, scales: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.network, self.flip, self.scales = network, flip, tuple(scales)

    def forward(self, x: Tensor) -> Tensor:
        vectors = []
        for scale in self.scales:
            view = x
            if scale != 1:
                size = [max(1, round(side * scale)) for side in x.shape[2:]]
                view = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
            vectors.append(self._embedded(view, scale))
            if self.flip:
                vectors.append(self._embedded(view.flip(3), scale))
        return torch.stack(vectors).mean(dim=0)

    def _embedded(self, view: Tensor, scale: float) -> Tensor:
        try:
            out: Tensor = self.network(view)
        except AssertionError as error:
            if scale == 1:
                raise
            raise ModelError(f"the network takes one size of input only, so scale {scale} cannot be had: {error}")  # noqa: B904
        return out
