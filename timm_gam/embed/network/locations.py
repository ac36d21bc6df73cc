"""Why two images match: the exact split of their cosine similarity over the places of either image.

A network that ends in average pooling embeds an image as the mean of its feature map, and a mean is linear: the inner
product with another embedding is the sum over places of each place's own inner product, divided by their number. No
gradient and no model of the model is needed; the parts add up to the score (Zhou et al., "Learning Deep Features for
Discriminative Localization", CVPR 2016, with the other image's embedding in the place of a class's weights; Stylianou,
Souvenir, Pless, "Visualizing Deep Similarity Networks", WACV 2019).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from timm_gam.core import ModelError
from timm_gam.embed.network.embedding_network import EmbeddingLayer, embedding_network
from timm_gam.embed.network.pooling import feature_maps
from timm_gam.models import attention_layers

_AGREE = 1e-4  # relative: a float32 mean, taken in another order


@dataclass(frozen=True)
class LocationSplit:
    """The cosine similarity of two images, and what each place of either adds to it.

    Attributes:
        score: In [-1, 1].
        query: (h, w) float64, parts of `score` by place of the query's feature map; they sum to it.
        match: (h, w) float64, the same by place of the other image.
    """

    score: float
    query: NDArray[np.float64]
    match: NDArray[np.float64]


@torch.inference_mode()
def location_split(model: nn.Module, query: Tensor, match: Tensor, layer: EmbeddingLayer = "pooled") -> LocationSplit:
    """Split the cosine similarity of two images' embeddings over their places.

    Args:
        model: A timm model in eval mode whose embedding is the mean of its last feature map.
        query: (3, H, W) float, as the model's preprocessing gives it.
        match: Likewise.
        layer: The embedding, as in `embedding_network`.

    Raises:
        ModelError: the embedding is no mean over places (another pooling, or layers after it).

    >>> import timm, timm_gam
    >>> model = timm.create_model("test_resnet_gam", pretrained=True).eval()
    >>> split = location_split(model, torch.rand(3, 64, 64), torch.rand(3, 64, 64))
    >>> bool(abs(split.query.sum() - split.score) < 1e-6)
    True
    """
    (a, b), (q, g) = _maps(model, torch.stack([query, match]), layer)
    length = np.linalg.norm(q) * np.linalg.norm(g)
    length = length if length > 0 else 1.0
    places = a.shape[0] * a.shape[1]
    return LocationSplit(float(q @ g / length), a @ g / (length * places), b @ q / (length * places))


@torch.inference_mode()
def attention_maps(model: nn.Module, pixels: Tensor) -> dict[str, NDArray[np.float64]]:
    """The gates of every GAM, CBAM or SE layer over the places of images, averaged over channels.

    Args:
        model: A timm model in eval mode.
        pixels: (B, 3, H, W) float.

    Returns:
        Layer name -> (B, h, w) in [0, 1]: what the layer multiplies features by. Empty for a plain network.
    """
    found: dict[str, NDArray[np.float64]] = {}

    def record(name: str, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x, y = inputs[0].double(), output.double()
        used = x.abs() > 1e-6  # a gate multiplies: where nothing comes in, nothing is seen of it
        gates = torch.where(used, y / torch.where(used, x, 1.0), 0.0)
        found[name] = (gates.sum(1) / used.sum(1).clamp(min=1)).cpu().numpy()

    with ExitStack() as hooks:
        for name, module in attention_layers(model):
            hooks.callback(module.register_forward_hook(partial(record, name)).remove)
        model(pixels)
    return found


def _maps(model: nn.Module, pixels: Tensor, layer: EmbeddingLayer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, h, w, D) features by place and (B, D) embeddings, which are their mean."""
    embeddings = embedding_network(model, layer)(pixels).double()
    features: Tensor = model.forward_features(pixels)  # type: ignore[operator]
    maps = feature_maps(model, features)
    in_a_row = features.ndim == 3 and maps is not None and maps.shape[2] < maps.shape[3]  # tokens of who knows where
    if maps is not None and not in_a_row and maps.shape[1] == embeddings.shape[1]:
        error = (maps.double().mean(dim=(2, 3)) - embeddings).abs().max()
        if error <= _AGREE * embeddings.abs().max():
            return maps.double().permute(0, 2, 3, 1).cpu().numpy(), embeddings.cpu().numpy()
    raise ModelError(
        f"the embedding of {type(model).__name__} is no mean over places of its feature map, so its scores do not "
        "split over them; average-pooled networks do, with the layer 'pooled'"
    )
