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
from timm.models.resnet import ResNet
from torch import nn

from timm_gam.models import BASES

_CHANNELS = {
    "resnet18": (76, 152, 304, 604),  # 1.18 times as wide
    "resnet50": (160, 320, 640, 1296),  # 2.5 times
    "test_resnet": (44, 64, 64, 132),  # 1.36 times
}


def _cfg(plain: str) -> dict[str, Any]:
    """The data config of the plain network, without weights."""
    cfg = get_pretrained_cfg(timm.list_pretrained(f"{plain}.*")[0]).to_dict()
    return {**cfg, "hf_hub_id": None, "url": "", "architecture": None, "tag": None}


def _register(plain: str) -> None:
    """Make the entry point of a wide network, which timm finds by its module's and its own name, and register it."""
    name, network = f"{plain}_wide", {**BASES[plain], "channels": _CHANNELS[plain]}

    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(ResNet, name, pretrained, **{**network, **kwargs})  # type: ignore[no-any-return]

    entry_point.__name__ = entry_point.__qualname__ = name
    globals()[name] = register_model(entry_point)


default_cfgs = generate_default_cfgs({f"{plain}_wide": _cfg(plain) for plain in _CHANNELS})
for _plain in _CHANNELS:
    _register(_plain)
