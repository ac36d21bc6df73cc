"""ResNets with GAM, SE or CBAM after the last batch norm of every residual block, registered as timm models.

Tang, Jiang, Yang (2023) compare ResNet50, ResNet50 + SE, + CBAM and + GAM for image retrieval. The attention stands on
the block's output channels, before the residual add. That add is the paper's "fusion of the original and the
attended features". 1000-class parameter counts: resnet50_se 28,088,024; resnet50_cbam 28,073,576 (the paper prints
28.2 M, which no natural configuration gives); resnet50_gam 151,368,424; resnet50_gam_g4 58,944,232.

SE and CBAM are timm's. `resnet50_se` is timm's `seresnet50` under the name the comparison needs; its ImageNet tags
resolve to timm's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.cbam import CbamModule
from timm.layers.squeeze_excite import SEModule
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from timm_gam.core import hub_namespace
from timm_gam.models.attention import GateInit, gates_are_identity, init_gates, is_plain_backbone, rescale_backbone
from timm_gam.models.fit import adopt_fit, check_fit
from timm_gam.models.gam import GlobalAttention
from timm_gam.models.pretrained import fetch_weights
from timm_gam.models.shipped_weights import SHIPPED

__all__ = ["AttentionResNet"]

COREL_CLASSES = 80
"""Classes of the COREL data set the `.corel` weights are trained on."""


class AttentionResNet(ResNet):  # type: ignore[misc]
    """timm's ResNet whose attention gates keep their own initialisation.

    Args:
        gate_init: "paper" or "identity", see `timm_gam.models.attention`.
        **kwargs: Of `timm.models.resnet.ResNet`.

    Raises:
        ValueError: an unknown `gate_init`.
    """

    def __init__(self, *args: Any, gate_init: GateInit = "paper", **kwargs: Any) -> None:
        if gate_init not in ("paper", "identity"):
            raise ValueError(f"gate_init is '{gate_init}'; legal: 'paper', 'identity'")
        self.gate_init = gate_init  # before super(), which calls init_weights
        super().__init__(*args, **kwargs)

    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialise as timm does, then the gates: timm redraws every convolution, those of the gates too."""
        super().init_weights(zero_init_last=zero_init_last)
        init_gates(self, self.gate_init)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does. A plain backbone meeting gates at their identity start keeps its features.

        Half-open gates take away a factor that the batch norm before them gives back; see `timm_gam.models.attention`.
        """
        if self.gate_init == "identity" and is_plain_backbone(self, state_dict) and gates_are_identity(self):
            state_dict = rescale_backbone(self, state_dict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _create(variant: str, pretrained: bool, attention: Any, **kwargs: Any) -> nn.Module:
    """Build a variant: `attention(channels, device=, dtype=)` stands after the last batch norm of each block."""
    if not pretrained and isinstance(kwargs.get("pretrained_cfg"), str | None):
        # A model without weights has the 1000 classes of every ResNet, not those of weights it does not load.
        kwargs.setdefault("num_classes", 1000)
    return build_model_with_cfg(  # type: ignore[no-any-return]
        AttentionResNet,
        variant,
        pretrained,
        block_args={"attn_layer": attention},
        **{**kwargs, **(_weights(variant, **kwargs) if pretrained else {})},
    )


def _weights(
    variant: str,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """How timm is to load the weights: checked, and those on the Hub from the local file that we pull."""
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    if cfg.state_dict:
        return {"pretrained_filter_fn": check_fit}  # the caller's own tensors are copied
    if cfg.file or not cfg.hf_hub_id:
        return {"pretrained_filter_fn": adopt_fit}
    file, _ = fetch_weights(cfg, cache_dir)
    overlay = {**(pretrained_cfg_overlay or {}), "file": str(file), "source": None}
    return {"pretrained_filter_fn": adopt_fit, "pretrained_cfg_overlay": overlay}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        **kwargs,
    }


def _corel(name: str) -> dict[str, Any]:
    return {f"{name}.corel": _cfg(hf_hub_id=f"{hub_namespace()}/{name}.corel", num_classes=COREL_CLASSES)}


def _imagenet_se(tag: str) -> dict[str, Any]:
    """timm's own SE-ResNet50: the same state dict under timm's name."""
    theirs = get_pretrained_cfg(f"seresnet50.{tag}").to_dict()
    return {f"resnet50_se.{tag}": {**theirs, "hf_hub_id": f"timm/seresnet50.{tag}", "url": "", "architecture": None}}


def _tiny(name: str) -> dict[str, Any]:
    """Trained at 64 x 64 with the data config of timm's test_resnet otherwise; the weights are in the package."""
    config = {"input_size": (3, 64, 64), "pool_size": (2, 2), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    file = str(SHIPPED / f"{name}.corel" / "model.safetensors")
    return {f"{name}.corel": _cfg(first_conv="conv1.0", file=file, num_classes=COREL_CLASSES, **config)}


default_cfgs = generate_default_cfgs(
    {
        **_corel("resnet18_gam"),
        **_corel("resnet18_se"),
        **_corel("resnet18_cbam"),
        **_corel("resnet34_gam"),
        **_corel("resnet34_se"),
        **_corel("resnet34_cbam"),
        **_corel("resnet50_gam"),
        **_corel("resnet50_gam_g4"),
        **_imagenet_se("a1_in1k"),
        **_imagenet_se("a2_in1k"),
        **_imagenet_se("a3_in1k"),
        **_imagenet_se("ra2_in1k"),
        **_corel("resnet50_se"),
        **_corel("resnet50_cbam"),
        **_corel("resnet101_gam"),
        **_corel("resnet101_se"),
        **_corel("resnet101_cbam"),
        **_tiny("test_resnet_gam"),
        **_tiny("test_resnet_se"),
        **_tiny("test_resnet_cbam"),
    }
)

_RESNET18: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
_RESNET34: dict[str, Any] = {"block": BasicBlock, "layers": (3, 4, 6, 3)}
_RESNET50: dict[str, Any] = {"block": Bottleneck, "layers": (3, 4, 6, 3)}
_RESNET101: dict[str, Any] = {"block": Bottleneck, "layers": (3, 4, 23, 3)}
_TEST_RESNET: dict[str, Any] = {
    "block": [BasicBlock, BasicBlock, Bottleneck, BasicBlock],
    "layers": (1, 1, 1, 1),
    "stem_width": 16,
    "stem_type": "deep",
    "avg_down": True,
    "channels": (32, 48, 48, 96),
}


@register_model
def resnet18_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with GAM in every block."""
    return _create("resnet18_gam", pretrained, GlobalAttention, **dict(_RESNET18, **kwargs))


@register_model
def resnet18_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with SE in every block."""
    return _create("resnet18_se", pretrained, SEModule, **dict(_RESNET18, **kwargs))


@register_model
def resnet18_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with CBAM in every block."""
    return _create("resnet18_cbam", pretrained, CbamModule, **dict(_RESNET18, **kwargs))


@register_model
def resnet34_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with GAM in every block."""
    return _create("resnet34_gam", pretrained, GlobalAttention, **dict(_RESNET34, **kwargs))


@register_model
def resnet34_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with SE in every block."""
    return _create("resnet34_se", pretrained, SEModule, **dict(_RESNET34, **kwargs))


@register_model
def resnet34_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with CBAM in every block."""
    return _create("resnet34_cbam", pretrained, CbamModule, **dict(_RESNET34, **kwargs))


@register_model
def resnet50_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with GAM in every block."""
    return _create("resnet50_gam", pretrained, GlobalAttention, **dict(_RESNET50, **kwargs))


@register_model
def resnet50_gam_g4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with GAM in every block, its spatial convolutions in 4 groups with a channel shuffle between them."""
    return _create("resnet50_gam_g4", pretrained, partial(GlobalAttention, groups=4), **dict(_RESNET50, **kwargs))


@register_model
def resnet50_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with SE in every block."""
    return _create("resnet50_se", pretrained, SEModule, **dict(_RESNET50, **kwargs))


@register_model
def resnet50_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with CBAM in every block."""
    return _create("resnet50_cbam", pretrained, CbamModule, **dict(_RESNET50, **kwargs))


@register_model
def resnet101_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with GAM in every block."""
    return _create("resnet101_gam", pretrained, GlobalAttention, **dict(_RESNET101, **kwargs))


@register_model
def resnet101_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with SE in every block."""
    return _create("resnet101_se", pretrained, SEModule, **dict(_RESNET101, **kwargs))


@register_model
def resnet101_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with CBAM in every block."""
    return _create("resnet101_cbam", pretrained, CbamModule, **dict(_RESNET101, **kwargs))


@register_model
def test_resnet_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with GAM in every block."""
    return _create("test_resnet_gam", pretrained, GlobalAttention, **dict(_TEST_RESNET, **kwargs))


@register_model
def test_resnet_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with SE in every block."""
    return _create("test_resnet_se", pretrained, SEModule, **dict(_TEST_RESNET, **kwargs))


@register_model
def test_resnet_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with CBAM in every block."""
    return _create("test_resnet_cbam", pretrained, CbamModule, **dict(_TEST_RESNET, **kwargs))
