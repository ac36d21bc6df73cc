"""Plain networks of GAM's size, registered with timm: what the same parameters and arithmetic buy without attention.

Every stage of the plain network is widened alike until it costs what its GAM variant costs. One width meets both, with
40 classes and 64 x 64 images: `test_resnet_wide` 0.681 M parameters and 23.1 M multiply-accumulates (`test_resnet_gam`
0.687 M, 22.9 M); `resnet18_wide` 15.6 M and 203 M (`resnet18_gam` 15.6 M, 200 M); at 96 x 96 pixels `resnet50_wide`
148.9 M and 4.55 G (`resnet50_gam` 149.4 M, 4.53 G). Their embeddings are wider as well.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn


def _cfg(plain: str) -> dict[str, Any]:
    """The data config of the plain network, without weights."""
    cfg = get_pretrained_cfg(timm.list_pretrained(f"{plain}.*")[0]).to_dict()
    return {**cfg, "hf_hub_id": None, "url": "", "architecture": None, "tag": None}


default_cfgs = generate_default_cfgs(
    {"resnet18_wide": _cfg("resnet18"), "resnet50_wide": _cfg("resnet50"), "test_resnet_wide": _cfg("test_resnet")},
)

WIDE = {"resnet18": "resnet18_wide", "resnet50": "resnet50_wide", "test_resnet": "test_resnet_wide"}
"""Plain network -> the plain network of its GAM variant's size."""


@register_model
def resnet18_wide(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18, 1.18 times as wide."""
    args = {"block": BasicBlock, "layers": (2, 2, 2, 2), "channels": (76, 152, 304, 604)}
    return build_model_with_cfg(ResNet, "resnet18_wide", pretrained, **{**args, **kwargs})  # type: ignore[no-any-return]


@register_model
def resnet50_wide(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50, 2.5 times as wide."""
    args = {"block": Bottleneck, "layers": (3, 4, 6, 3), "channels": (160, 320, 640, 1296)}
    return build_model_with_cfg(ResNet, "resnet50_wide", pretrained, **{**args, **kwargs})  # type: ignore[no-any-return]


@register_model
def test_resnet_wide(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet, 1.36 times as wide."""
    args = {
        "block": [BasicBlock, BasicBlock, Bottleneck, BasicBlock],
        "layers": (1, 1, 1, 1),
        "stem_width": 16,
        "stem_type": "deep",
        "avg_down": True,
        "channels": (44, 64, 64, 132),
    }
    return build_model_with_cfg(ResNet, "test_resnet_wide", pretrained, **{**args, **kwargs})  # type: ignore[no-any-return]
