"""A model, its preprocessing and how it is run: what an embedding depends on besides the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from timm_gam.core import ModelError, versions
from timm_gam.data import ImageSet
from timm_gam.embed.embedding import EmbeddedBatch, embed_batches
from timm_gam.embed.network.embedding_network import EmbeddingLayer, Views, embedding_network
from timm_gam.embed.network.head import HeadFacts, read_head
from timm_gam.embed.settings import EmbedSettings, recorded_views
from timm_gam.images import SHRINK_MARGIN, Preprocessing, resolve_preprocessing
from timm_gam.inference import OptimizedNetwork, compiler_errors, optimize
from timm_gam.models import LoadedModel, ModelInfo, weights_digest

_COMPUTED_WITH = ("timm-gam", "timm", "torch", "torchvision", "pillow")
"""Packages that decode, preprocess and compute: kept embeddings are those of the versions a record names."""


class Embedder:
    """Makes embeddings with one model.

    Args:
        loaded: From `timm_gam.load_model`.
        preprocessing: Default: the model's own data config.
        settings: Default: `EmbedSettings()`.

    A head that the model has (`LoadedModel.head`) is its last layer, over the views that the head was trained with.

    Attributes:
        head: That head, or None.
        optimizations: What `EmbedSettings.optimize` did to the network; empty until it has embedded something.
    """

    def __init__(
        self, loaded: LoadedModel, preprocessing: Preprocessing | None = None, settings: EmbedSettings | None = None
    ) -> None:
        self.loaded = loaded
        self.preprocessing = preprocessing or resolve_preprocessing(loaded.model)
        self.settings = settings or EmbedSettings()
        self.head = None if loaded.head is None else read_head(loaded.head)
        if self.head is not None:
            self.settings = _of_head(self.head.facts, self.settings, loaded.info)
        if self.settings.optimize and self.settings.scales != (1.0,):
            raise ModelError("several scales came with --optimize, which prepares the network for one size of input")
        self.optimizations: list[str] = []

    @property
    def key(self) -> dict[str, Any]:
        """All that the embedding of an image depends on besides its bytes, as plain values."""
        installed = versions()
        key: dict[str, Any] = {
            "architecture": self.loaded.info.architecture,
            "model_args": self.loaded.info.model_args,
            "weights": self.loaded.info.weights.sha256,
            "layer": self.settings.layer,
            "preprocessing": self.preprocessing.as_dict(),
            "precision": str(self.settings.amp_dtype or torch.float32),
            "optimize": self.settings.optimize,
            "versions": {name: installed[name] for name in _COMPUTED_WITH},
        }
        if self.preprocessing.shrink_on_load:
            key["shrink_margin"] = SHRINK_MARGIN
        if self.settings.views:
            key["views"] = self.settings.views
        if self.head is not None:
            key["head"] = weights_digest(self.head.state_dict())
        return key

    def embed(self, images: ImageSet, rows: NDArray[np.int64], take: Callable[[EmbeddedBatch], None]) -> None:
        """Embed (n,) ascending rows of an image set and hand over each batch as soon as it is there.

        Raises:
            TimmGamError: as `embed_batches`; or the network cannot be compiled.
        """
        settings = self.settings
        with compiler_errors(settings.compile_backend):
            network = self._network()
            if settings.compile_backend is not None:
                network.compile(backend=settings.compile_backend)
            if settings.optimize:
                network = optimize(network, dtype=settings.amp_dtype)
            embed_batches(self._of_views(network), images, self.preprocessing, take, settings, rows=rows)
            if isinstance(network, OptimizedNetwork):
                self.optimizations = network.applied

    def network(self) -> nn.Module:
        """(B, 3, H, W) float -> (B, D) float: pooling, views and head, neither compiled nor optimised."""
        return self._of_views(self._network())

    def _network(self) -> nn.Module:
        settings = self.settings
        return embedding_network(self.loaded.model, settings.layer, pool=settings.pool, stages=settings.stages)

    def _of_views(self, network: nn.Module) -> nn.Module:
        flip, scales = self.settings.flip, self.settings.scales
        views = Views(network, flip=flip, scales=scales) if flip or scales != (1.0,) else network
        return views if self.head is None else nn.Sequential(views, self.head)


def _of_head(facts: HeadFacts, settings: EmbedSettings, info: ModelInfo) -> EmbedSettings:
    """The settings under which a head was trained, and otherwise as asked for."""
    if facts.weights != info.weights.sha256:
        raise ModelError(
            f"the head was trained on other weights ({facts.weights[:12]}...) than those of '{info.name}' "
            f"({info.weights.sha256[:12]}...); train one with timm-gam head, or leave it out with --head none"
        )
    if settings.views not in ({}, facts.views):
        raise ModelError(f"the head takes embeddings made with {facts.views or 'no such options'}; leave those out")
    return replace(settings, layer=cast(EmbeddingLayer, facts.layer), **recorded_views(facts.views))
