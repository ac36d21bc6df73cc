"""ResNets with GAM, SE or CBAM after the last batch norm of every residual block, registered as timm models.

Tang, Jiang, Yang (2023) compare ResNet50, ResNet50 + SE, + CBAM and + GAM for image retrieval. The attention stands on
the block's output channels, before the residual add. That add is the paper's "fusion of the original and the
attended features". 1000-class parameter counts: resnet50_se 28,088,024; resnet50_cbam 28,073,576 (the paper prints
28.2 M, which no natural configuration gives); resnet50_gam 151,368,424; resnet50_gam_g4 58,944,232.

SE and CBAM are timm's. `resnet50_se` is timm's `seresnet50` under the name the comparison needs; its ImageNet tags
resolve to timm's weights.

`pretrained=True` gives the best weights that exist, see `tags.py`: those trained on COREL where they are released or in
the package (the tiny family), timm's for `resnet50_se`, else an identity start such as `resnet50_gam.a1_in1k_identity`:
ImageNet weights of the plain network, the attention untrained and doing nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.layers.cbam import CbamModule
from timm.layers.squeeze_excite import SEModule
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from timm_gam.core import CheckpointError
from timm_gam.models.attention import GateInit, init_gates, rescale_backbone, starts_from_plain
from timm_gam.models.gam import GlobalAttention
from timm_gam.models.weights.fit import adopt_fit, check_fit
from timm_gam.models.weights.pretrained import fetch_weights
from timm_gam.models.weights.tags import as_released, is_identity, variant_tags


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

        It lacks nothing then, as the gates are where they start. Half-open gates take away a factor that the batch norm
        before them gives back; see `timm_gam.models.attention`.
        """
        if layers := tuple(starts_from_plain(self, state_dict)):
            gates = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(layers)}
            state_dict = {**rescale_backbone(self, state_dict), **gates}
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
    gate_init: GateInit | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """How timm is to load the weights: checked, and those on the Hub from the local file that we pull."""
    cfg = as_released(resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay))
    if cfg.state_dict:
        return {"pretrained_filter_fn": check_fit}  # the caller's own tensors are copied
    if cfg.file or not cfg.hf_hub_id:
        return {"pretrained_filter_fn": adopt_fit}
    gates = {}
    if is_identity(cfg.tag) and cfg.source != "hf-hub":
        gates = {"gate_init": "identity"}
        if gate_init == "paper":
            raise CheckpointError(
                f"'{variant}.{cfg.tag}' starts at identity gates; for others: timm_gam.from_backbone(gate_init='paper')"
            )
    file, _ = fetch_weights(cfg, cache_dir)
    overlay = {**(pretrained_cfg_overlay or {}), "file": str(file), "source": None}
    return {"pretrained_filter_fn": adopt_fit, "pretrained_cfg_overlay": overlay, **gates}


_ATTENTION = {"gam": "GAM", "se": "SE", "cbam": "CBAM", "gam_g4": "grouped GAM"}
_VARIANTS = {
    f"{base}_{kind}": (base, attention)
    for base in ("resnet18", "resnet34", "resnet50", "resnet101", "test_resnet")
    for kind, attention in _ATTENTION.items()
    if kind != "gam_g4" or base == "resnet50"
}
default_cfgs = generate_default_cfgs(
    {
        tag: cfg
        for name, (base, attention) in _VARIANTS.items()
        for tag, cfg in variant_tags(name, base, attention).items()
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
    """ResNet-18 with GAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet18_gam", pretrained, GlobalAttention, **dict(_RESNET18, **kwargs))


@register_model
def resnet18_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with SE in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet18_se", pretrained, SEModule, **dict(_RESNET18, **kwargs))


@register_model
def resnet18_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with CBAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet18_cbam", pretrained, CbamModule, **dict(_RESNET18, **kwargs))


@register_model
def resnet34_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with GAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet34_gam", pretrained, GlobalAttention, **dict(_RESNET34, **kwargs))


@register_model
def resnet34_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with SE in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet34_se", pretrained, SEModule, **dict(_RESNET34, **kwargs))


@register_model
def resnet34_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with CBAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet34_cbam", pretrained, CbamModule, **dict(_RESNET34, **kwargs))


@register_model
def resnet50_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with GAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet50_gam", pretrained, GlobalAttention, **dict(_RESNET50, **kwargs))


@register_model
def resnet50_gam_g4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with GAM in every block, its spatial convolutions in 4 groups with a channel shuffle between them.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet50_gam_g4", pretrained, partial(GlobalAttention, groups=4), **dict(_RESNET50, **kwargs))


@register_model
def resnet50_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with SE in every block.

    Pretrained until COREL weights are released: timm's SE-ResNet50, attention trained on ImageNet.
    """
    return _create("resnet50_se", pretrained, SEModule, **dict(_RESNET50, **kwargs))


@register_model
def resnet50_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with CBAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet50_cbam", pretrained, CbamModule, **dict(_RESNET50, **kwargs))


@register_model
def resnet101_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with GAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet101_gam", pretrained, GlobalAttention, **dict(_RESNET101, **kwargs))


@register_model
def resnet101_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with SE in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet101_se", pretrained, SEModule, **dict(_RESNET101, **kwargs))


@register_model
def resnet101_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with CBAM in every block.

    Pretrained until COREL weights are released: as the plain network on ImageNet, its attention doing nothing yet.
    """
    return _create("resnet101_cbam", pretrained, CbamModule, **dict(_RESNET101, **kwargs))


@register_model
def test_resnet_gam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with GAM in every block; pretrained on COREL, in the package."""
    return _create("test_resnet_gam", pretrained, GlobalAttention, **dict(_TEST_RESNET, **kwargs))


@register_model
def test_resnet_se(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with SE in every block; pretrained on COREL, in the package."""
    return _create("test_resnet_se", pretrained, SEModule, **dict(_TEST_RESNET, **kwargs))


@register_model
def test_resnet_cbam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tiny test ResNet with CBAM in every block; pretrained on COREL, in the package."""
    return _create("test_resnet_cbam", pretrained, CbamModule, **dict(_TEST_RESNET, **kwargs))
