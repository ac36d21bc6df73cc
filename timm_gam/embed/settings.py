"""How embeddings are made, as one object that travels whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from timm_gam.embed.network.embedding_network import EmbeddingLayer
from timm_gam.embed.network.pooling import Pooling
from timm_gam.images import DecodeLimits

OnUnreadable = Literal["raise", "skip"]


@dataclass(frozen=True)
class EmbedSettings:
    """How embeddings are made; the defaults are the command line's."""

    layer: EmbeddingLayer = "pooled"
    pool: Pooling | None = None  # how feature maps are pooled; None: as the model does
    stages: tuple[int, ...] = ()  # earlier feature maps that are pooled and put before the last
    flip: bool = False  # embed the mean of each image and its mirror image
    scales: tuple[float, ...] = (1.0,)  # embed the mean of views whose sides are so many times the input's
    batch_size: int = 32  # images per forward pass
    workers: int | None = None  # loader processes; 0 decodes in this process; None: chosen for the device
    device: str = "cpu"
    amp_dtype: torch.dtype | None = None  # torch.float16 or torch.bfloat16 for mixed precision; None: float32
    channels_last: bool = False  # memory layout of the network
    compile_backend: str | None = None  # torch.compile backend; None: eager
    optimize: bool = False  # prepare the network with `timm_gam.optimize`
    on_unreadable: OnUnreadable = "raise"  # end at the first image that cannot be read, or record it and go on
    limits: DecodeLimits = DecodeLimits()  # what one image may take to decode, or it is unreadable

    @property
    def views(self) -> dict[str, Any]:
        """The options among these that embeddings depend on and that are not the model's own; empty by default."""
        chosen = {"pool": self.pool, "stages": list(self.stages), "flip": self.flip, "scales": list(self.scales)}
        usual = {"pool": None, "stages": [], "flip": False, "scales": [1.0]}
        return {name: value for name, value in chosen.items() if value != usual[name]}


def recorded_views(views: Mapping[str, Any]) -> dict[str, Any]:
    """What `EmbedSettings.views` gave, perhaps read from JSON, as arguments of `EmbedSettings`."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in views.items()}
