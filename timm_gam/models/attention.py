"""What the attention layers of a model are, and how their gates start.

A gate is a sigmoid that multiplies a residual branch. At its usual start it is near 1/2, and GAM and CBAM
have two in a row: a branch that carries pretrained weights is scaled by about a quarter in every block, which
destroys what was pretrained until training repairs it.

`gate_init="identity"` removes that. A gate could be held open by a large bias, but a saturated sigmoid passes no
gradient and the attention would stay decoration. Instead the last layer of every gate starts at zero: each
sigmoid is then exactly 1/2, at its steepest slope, whatever the input. `rescale_backbone` multiplies the batch
norm before the attention by the inverse, 2 for SE and 4 for CBAM and GAM. Powers of two are exact, so the model
computes the plain backbone's features without any rounding of its own, in the architecture of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from timm.layers.cbam import CbamModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from timm_gam.models.gam import GlobalAttention

GateInit = Literal["paper", "identity"]
"""How gates start: "paper" at their layers' random defaults, "identity" at exactly 1/2 each (see above)."""

_ATTENTION = (GlobalAttention, CbamModule, SEModule)


def attention_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every GAM, CBAM or SE layer, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, _ATTENTION):
            yield name, module


def attention_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all attention layers by name: those that the paper trains at 10x the learning rate.

    >>> import timm
    >>> import timm_gam
    >>> len(timm_gam.attention_parameters(timm.create_model("test_resnet")))
    0
    """
    return {
        f"{name}.{inner}": parameter
        for name, layer in attention_layers(model)
        for inner, parameter in layer.named_parameters()
    }


def init_gates(model: nn.Module, gate_init: GateInit) -> None:
    """Set every attention layer of `model` to its start, in place.

    "paper" redraws GAM from PyTorch's defaults, as the published code has it, and leaves SE and CBAM as timm
    initialises them. "identity" does the same and then zeroes the last layer of each gate.
    """
    for _, layer in attention_layers(model):
        if isinstance(layer, GlobalAttention):
            layer.reset_parameters()
        if gate_init == "identity":
            for last in _last_layers(layer):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)


def is_plain_backbone(model: nn.Module, state_dict: Mapping[str, Tensor]) -> bool:
    """Whether `state_dict` holds no attention tensor of `model` at all."""
    layers = tuple(f"{name}." for name, _ in attention_layers(model))
    return not any(key.startswith(layers) for key in state_dict)


def gates_are_identity(model: nn.Module) -> bool:
    """Whether every gate of `model` is at its identity start: exactly 1/2 for any input."""
    last = [last for _, layer in attention_layers(model) for last in _last_layers(layer)]
    return all(not p.is_meta and not bool(p.any()) for module in last for p in module.parameters())


def starts_from_plain(model: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the attention layers where `model` takes `state_dict` without them: plain, into identity gates."""
    if getattr(model, "gate_init", None) != "identity" or not is_plain_backbone(model, state_dict):
        return []
    return [f"{name}." for name, _ in attention_layers(model)] if gates_are_identity(model) else []


def rescale_backbone(model: nn.Module, backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the batch norms before the attention by what half-open gates take away.

    Args:
        model: A model whose gates are at their identity start.
        backbone: Its tensors without the attention layers; not changed.

    Returns:
        The same tensors, weight and bias of each block's last batch norm times 2 (SE) or 4 (CBAM, GAM).
    """
    scaled = dict(backbone)
    for name, layer in attention_layers(model):
        block_name = name.rpartition(".")[0]
        norm = "bn3" if hasattr(model.get_submodule(block_name), "bn3") else "bn2"
        factor = 2 ** len(_last_layers(layer))
        for part in ("weight", "bias"):
            key = f"{block_name}.{norm}.{part}"
            if key in scaled:
                scaled[key] = scaled[key] * factor
    return scaled


def _last_layers(layer: nn.Module) -> list[nn.Module]:
    """The last layer before each sigmoid."""
    if isinstance(layer, GlobalAttention):
        return [layer.channel.fc2, layer.spatial.bn2]
    if isinstance(layer, CbamModule):
        return [layer.channel.fc2, layer.spatial.conv.bn]
    return [layer.get_submodule("fc2")]
