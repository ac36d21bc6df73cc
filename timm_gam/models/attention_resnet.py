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

from collections.abc import Callable, Mapping
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
from timm_gam.models.weights.shipped_weights import find_shipped
from timm_gam.models.weights.tags import COREL_TAG, as_released, is_identity, variant_tags


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


def _register(base: str, kind: str) -> None:
    """Make the entry point of a variant, which timm finds by its module's and its own name, and register it."""
    name = f"{base}_{kind}"
    title, layer = _ATTENTION[kind]
    plain = "timm's tiny test ResNet" if base == "test_resnet" else f"ResNet-{base.removeprefix('resnet')}"

    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, layer, **{**BASES[base], **kwargs})

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"{plain} with {title} in every block.\n\n{_pretrained(name)}"
    globals()[name] = register_model(entry_point)


def _pretrained(name: str) -> str:
    if find_shipped(f"{name}.{COREL_TAG}"):
        return "Pretrained on COREL, in the package."
    before = "as the plain network on ImageNet, its attention doing nothing yet"
    if name == "resnet50_se":
        before = "timm's SE-ResNet50, attention trained on ImageNet"
    return f"Pretrained until COREL weights are released: {before}."


def _create(variant: str, pretrained: bool, attention: Callable[..., nn.Module], **kwargs: Any) -> nn.Module:
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


_ATTENTION: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "gam": ("GAM", GlobalAttention),
    "se": ("SE", SEModule),
    "cbam": ("CBAM", CbamModule),
    "gam_g4": ("grouped GAM", partial(GlobalAttention, groups=4)),  # a channel shuffle between its convolutions
}
BASES: dict[str, dict[str, Any]] = {
    "resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "resnet34": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
    "resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "resnet101": {"block": Bottleneck, "layers": (3, 4, 23, 3)},
    "test_resnet": {
        "block": [BasicBlock, BasicBlock, Bottleneck, BasicBlock],
        "layers": (1, 1, 1, 1),
        "stem_width": 16,
        "stem_type": "deep",
        "avg_down": True,
        "channels": (32, 48, 48, 96),
    },
}
"""Plain name -> what timm builds its ResNet of."""
_VARIANTS = [(base, kind) for base in BASES for kind in _ATTENTION if kind != "gam_g4" or base == "resnet50"]

default_cfgs = generate_default_cfgs(  # timm reads it while a model registers
    {
        tag: cfg
        for base, kind in _VARIANTS
        for tag, cfg in variant_tags(f"{base}_{kind}", base, _ATTENTION[kind][0]).items()
    }
)
for _base, _kind in _VARIANTS:
    _register(_base, _kind)
