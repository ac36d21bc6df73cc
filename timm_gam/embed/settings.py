"""How embeddings are made, as one object that travels whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from timm_gam.embed.network import EmbeddingLayer
from timm_gam.images import DecodeLimits

__all__ = ["EmbedSettings", "OnUnreadable"]

OnUnreadable = Literal["raise", "skip"]


@dataclass(frozen=True)
class EmbedSettings:
    """How embeddings are made; the defaults are the command line's."""

    layer: EmbeddingLayer = "pooled"
    batch_size: int = 32  # images per forward pass
    workers: int | None = None  # loader processes; 0 decodes in this process; None: chosen for the device
    device: str = "cpu"
    amp_dtype: torch.dtype | None = None  # torch.float16 or torch.bfloat16 for mixed precision; None: float32
    channels_last: bool = False  # memory layout of the network
    compile_backend: str | None = None  # torch.compile backend; None: eager
    optimize: bool = False  # prepare the network with `timm_gam.optimize`
    on_unreadable: OnUnreadable = "raise"  # end at the first image that cannot be read, or record it and go on
    limits: DecodeLimits = DecodeLimits()  # what one image may take to decode, or it is unreadable
