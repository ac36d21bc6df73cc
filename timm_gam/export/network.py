"""Which part of a model is exported: pixels -> embeddings by default, pixels -> logits where they are asked for."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import ExportError
from timm_gam.embed import Embedder, EmbedSettings
from timm_gam.models import LoadedModel

Layer = Literal["pooled", "pre_logits", "logits"]
"""The embedding layers of `eval.embedding_network`, or the classifier's output."""


def network_to_export(loaded: LoadedModel, layer: Layer = "pooled", *, normalize: bool = False) -> nn.Module:
    """The network from pixels to what a search or a classification needs: (B, 3, H, W) -> (B, D) float32.

    Args:
        loaded: A timm model in eval mode. Its head, if it has one, is the last layer, over the views that the head was
            trained with; logits have none.
        layer: Whose output it gives; with a head, the layer that it was trained on.
        normalize: Scale embeddings to unit length, so that their inner product is the cosine; a head does by itself.

    Raises:
        ExportError: an unknown layer, logits of a model without a classifier, or normalized logits.
        ModelError: "pooled" is asked of a model whose pooling cannot be told from its head; or the head was trained on
            other weights.
        CheckpointError: the head cannot be read.
    """
    if layer not in get_args(Layer):
        raise ExportError(f"layer is '{layer}'; legal: {', '.join(get_args(Layer))}")
    if layer != "logits":
        network = Embedder(loaded, settings=EmbedSettings(layer)).network()
        return _UnitLength(network) if normalize else network
    if normalize:
        raise ExportError("logits have no unit length; leave out --normalize, or export an embedding")
    if not getattr(loaded.model, "num_classes", 0):
        raise ExportError("these weights have no classifier, so there are no logits; export an embedding")
    return loaded.model


def output_name(layer: Layer) -> str:
    """What the output is called in the exported file."""
    return "logits" if layer == "logits" else "embedding"


class _UnitLength(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x))
