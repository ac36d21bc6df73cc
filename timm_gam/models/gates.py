"""How much the gates of a network depend on the image: measured, frozen at their mean, shuffled between images.

A gate layer gives `x * g(x)`. The gate is read as output / input, so one rule serves SE, ECA, CBAM, GAM and timm's
other gates, whatever is inside them; where the input is exactly 0 the gate has no effect and counts as unknown.

Published work finds channel gates close to constants: Gao et al., "Is channel attention doing what you think?",
arXiv 2304.06345. A constant gate is a weight of the layer before it, so a network whose gates can be frozen without
loss is a plain network with another parametrisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import CecaModule, EcaModule, GatherExcite
from timm.layers.cbam import CbamModule, LightCbamModule
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule, SqueezeExciteCl
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.senet import SEModule as LegacySEModule
from torch import Tensor, nn

from timm_gam.models.gam import GlobalAttention

_GATES = (
    GlobalAttention, CbamModule, LightCbamModule, SqueezeExcite, SEModule, SqueezeExciteCl,
    EffectiveSEModule, EcaModule, CecaModule, GatherExcite, EseModule, LegacySEModule,
)  # fmt: skip


@dataclass(frozen=True)
class GateUse:
    """How one gate layer behaves over images.

    Attributes:
        mean: (C, H, W) float32, the mean gate of each value; H = W = 1 where it does not depend on the position.
        level: Mean gate over everything.
        over_images: Root mean square of each gate's standard deviation over images: how far it moves with the image.
        over_values: Standard deviation of `mean`: how far gates differ whatever the image.
    """

    mean: Tensor
    level: float
    over_images: float
    over_values: float

    @property
    def share(self) -> float:
        """Share of the gates' variance that the image decides, in [0, 1]; 0 where a gate does not vary at all."""
        total = self.over_images**2 + self.over_values**2
        return self.over_images**2 / total if total > 0 else 0.0


def gate_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every gate layer, in the model's order: GAM, CBAM, SE, ECA and timm's other ones."""
    for name, module in model.named_modules():
        if isinstance(module, _GATES):
            yield name, module


def measure_gates(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, GateUse]:
    """Run a network in eval mode over (B, 3, H, W) float batches; layer name -> how its gates behave.

    >>> import timm, torch, timm_gam
    >>> model = timm.create_model("test_resnet_gam", gate_init="identity", zero_init_last=False).eval()
    >>> uses = measure_gates(model, [torch.randn(4, 3, 64, 64)])
    >>> [round(use.level, 3) for use in uses.values()]  # two gates of exactly 1/2 in a row, whatever the image
    [0.25, 0.25, 0.25, 0.25]
    """
    sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def add(name: str, gate: Tensor) -> None:
        known = torch.isfinite(gate)
        value = torch.where(known, gate, 0).double()
        new = (known.sum(0), value.sum(0), value.square().sum(0))
        sums[name] = tuple(a + b for a, b in zip(sums[name], new, strict=True)) if name in sums else new  # type: ignore[assignment]

    with _gate_hooks(model, lambda name, x, gate: add(name, gate)), torch.inference_mode():
        for batch in batches:
            model(batch)
    return {name: _use(*parts) for name, parts in sums.items()}


@contextmanager
def frozen_gates(model: nn.Module, uses: Mapping[str, GateUse]) -> Iterator[None]:
    """Within: every gate has its mean over images, from `measure_gates`, whatever the image."""
    means = {name: use.mean for name, use in uses.items()}
    with _gate_hooks(model, lambda name, x, gate: means[name].to(x)):
        yield


@contextmanager
def shuffled_gates(model: nn.Module) -> Iterator[None]:
    """Within: every image of a batch gets the gates of the image before it in the batch, the first those of the last.

    Draw the batches at random: in a folder's order the neighbour is an image of the same class.
    """

    def other(name: str, x: Tensor, gate: Tensor) -> Tensor:
        moved = gate.roll(1, dims=0)
        return torch.where(torch.isfinite(moved), moved, gate.nanmean(0))

    with _gate_hooks(model, other):
        yield


@contextmanager
def _gate_hooks(model: nn.Module, hook: Callable[[str, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Within: `hook(name, x, gate)` is told every gate; what it gives in its place, if anything, multiplies x."""

    def called(name: str, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        x = args[0]
        gate = hook(name, x, torch.where(x == 0, torch.nan, output / x))  # unknown where the input is 0
        return None if gate is None else x * gate.nan_to_num(1.0)

    with ExitStack() as hooks:
        for name, layer in gate_layers(model):
            hooks.enter_context(layer.register_forward_hook(partial(called, name)))
        yield


def _use(known: Tensor, total: Tensor, squares: Tensor) -> GateUse:
    mean = total / known.clamp(min=1)
    variance = (squares / known.clamp(min=1) - mean.square()).clamp(min=0)
    seen = known > 0
    return GateUse(
        mean=mean.float(),
        level=_mean(mean[seen]),
        over_images=_mean(variance[seen]) ** 0.5,
        over_values=_mean((mean[seen] - _mean(mean[seen])).square()) ** 0.5,
    )


def _mean(values: Tensor) -> float:
    """NaN of none: the gates of a branch that is all zero, as timm starts its residual branches, are unknown."""
    return float(values.mean()) if values.numel() else float("nan")
