"""Gates are measured, frozen and shuffled as a network with known gates says they should be."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.cbam import CbamModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

import timm_gam  # noqa: F401
from timm_gam.models import frozen_gates, gate_layers, measure_gates, shuffled_gates
from timm_gam.models.gam import GlobalAttention


@pytest.mark.parametrize("layer", [GlobalAttention(32), CbamModule(32), SqueezeExcite(32)], ids=["gam", "cbam", "se"])
def test_mean_and_spread_are_those_of_the_gates(layer: nn.Module) -> None:
    model, x = nn.Sequential(layer).eval(), torch.randn(12, 32, 5, 5)
    use = measure_gates(model, x.split(5))["0"]
    gates = (layer(x) / x).double().detach()
    assert torch.allclose(use.mean.double(), gates.mean(0), atol=1e-5)
    assert use.over_images == pytest.approx(float(gates.var(0, correction=0).mean().sqrt()), rel=1e-3)
    assert 0 < use.share < 1


def test_frozen_gates_are_a_weight_and_shuffled_ones_another_images() -> None:
    layer = SqueezeExcite(16)
    model, x = nn.Sequential(layer).eval(), torch.randn(6, 16, 4, 4)
    with torch.no_grad():
        gates = layer(x) / x
        with frozen_gates(model, measure_gates(model, [x])):
            assert torch.allclose(model(x), x * gates.mean(0), atol=1e-5)
        with shuffled_gates(model):
            assert torch.allclose(model(x), x * gates.roll(1, 0), atol=1e-5)
        assert torch.equal(model(x), layer(x))


def test_a_gate_at_a_zero_has_no_effect_and_is_not_counted() -> None:
    class Half(SqueezeExcite):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    x = torch.randn(4, 8, 3, 3).relu()
    use = measure_gates(nn.Sequential(Half(8)), [x])["0"]
    assert (use.level, use.over_images) == (0.5, 0.0)


@pytest.mark.parametrize(
    "name",
    ["test_resnet_cbam", "seresnet18", "ecaresnet26t", "test_efficientnet", "regnety_002", "legacy_seresnet18",
     "hgnet_tiny"],
)  # fmt: skip
def test_gates_of_timms_models_are_found(name: str) -> None:
    model = timm.create_model(name).eval()
    uses = measure_gates(model, [torch.randn(2, 3, 64, 64)])
    assert uses.keys() == {layer for layer, _ in gate_layers(model)} != set()
