"""`timm_gam.optimize`: the same outputs from folded, frozen and compiled networks, ours and timm's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

import timm_gam
from timm_gam.inference.column_convolution import ColumnConv2d

OURS = ("test_resnet_gam", "test_resnet_se", "test_resnet_cbam", "resnet18_gam")
THEIRS = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext")


def trained_looking(name: str) -> nn.Module:
    """A model whose batch norms are no identities and whose residual branches are not zero, as at initialisation."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def images(model: nn.Module, count: int = 2) -> Tensor:
    side = min(model.pretrained_cfg["input_size"][1], 160)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", (*OURS, *THEIRS))
def test_outputs_are_those_of_the_model_which_is_left_alone(name: str) -> None:
    model = trained_looking(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    x = images(model)
    with torch.no_grad():
        expected = model(x)
    network = timm_gam.optimize(model, compiled=False)
    assert relative_error(network(x), expected) < 1e-5
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_feature_maps_are_those_of_the_model() -> None:
    model = timm.create_model("test_resnet_gam", features_only=True).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
    for got, wanted in zip(timm_gam.optimize(model, compiled=False)(x), expected, strict=True):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize("name", OURS)
def test_every_batch_norm_of_ours_is_folded(name: str) -> None:
    network = timm_gam.optimize(trained_looking(name), compiled=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert "batch norms folded" in network.applied[0]


def test_timm_reparameterizes_gam() -> None:
    model = trained_looking("test_resnet_gam")
    folded = reparameterize_model(model)
    gates = [m for m in folded.modules() if isinstance(m, timm_gam.GlobalAttention)]
    assert gates and not any(isinstance(m, nn.BatchNorm2d) for gate in gates for m in gate.modules())
    x = images(model)
    with torch.no_grad():
        assert relative_error(folded(x), model(x)) < 1e-5


def test_compiled_and_half_precision() -> None:
    whole: Any = trained_looking("test_resnet_gam")
    x = images(whole)
    model = nn.Sequential(whole.conv1, whole.bn1, whole.act1, whole.maxpool, whole.layer1)  # compiled in seconds
    with torch.no_grad():
        expected = model(x)
    exact = timm_gam.optimize(model)
    assert relative_error(exact(x), expected) < 1e-5
    half = timm_gam.optimize(model, dtype=torch.bfloat16, compiled=False)
    out = half(x)
    assert out.dtype == torch.float32
    assert 1e-5 < relative_error(out, expected) < 5e-2, "bfloat16 was used, and is close"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN, which packs weights")
def test_weights_are_packed_once() -> None:
    counters["inductor"].clear()
    network = timm_gam.optimize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    network(torch.randn(1, 3, 9, 9))
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"] > 0


def test_small_maps_are_convolved_by_kernel_columns_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained_looking("resnet18_gam")
    x = images(model)
    with torch.no_grad():
        expected = model(x)
    for faster in (True, False):

        def seconds(run: nn.Module, *args: object, faster: bool = faster) -> float:
            return 1 if has_columns(run) == faster else 2

        monkeypatch.setattr(timm_gam.inference.optimization, "time_of", seconds)
        network = timm_gam.optimize(model, compiled=False)
        assert relative_error(network(x), expected) < 1e-5
        assert has_columns(network) == faster
        assert any("by kernel columns" in line for line in network.applied) == faster


@pytest.mark.filterwarnings("error::UserWarning:timm_gam")
def test_compiled_columns_take_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(run: nn.Module, *args: object) -> float:
        return 1 if has_columns(run) else 2

    monkeypatch.setattr(timm_gam.inference.optimization, "time_of", seconds)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 8, 7, padding=3), nn.ReLU()).eval()
    network = timm_gam.optimize(model)
    for count, side in ((2, 14), (3, 14), (2, 10)):
        x = torch.randn(count, 3, side, side)
        with torch.no_grad():
            assert relative_error(network(x), model(x)) < 1e-5
    assert network.applied[-1] == "compiled with frozen weights"
    assert has_columns(network)


def test_a_batch_that_does_not_fit_is_no_failure_to_compile() -> None:
    network = timm_gam.optimize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    network(torch.randn(1, 3, 9, 9))
    with pytest.raises(RuntimeError, match="channels"):
        network(torch.randn(1, 4, 9, 9))
    assert network.applied[-1] == "compiled with frozen weights"


def has_columns(network: nn.Module) -> bool:
    return any(isinstance(module, ColumnConv2d) for module in network.modules())


def test_without_a_compiler_the_rest_holds_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained_looking("test_resnet_se")
    x = images(model)
    with torch.no_grad():
        expected = model(x)

    class NoCompiler(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda network, **options: NoCompiler())
    network = timm_gam.optimize(model)
    with pytest.warns(UserWarning, match="runs without it: No working C\\+\\+ compiler found"):
        out = network(x)
    assert relative_error(out, expected) < 1e-5
    assert network.applied[-1] == "not compiled: No working C++ compiler found"


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="legal: torch.bfloat16"):
        timm_gam.optimize(trained_looking("test_resnet_se"), dtype=torch.float64)


@pytest.mark.parametrize("fastest", [torch.channels_last, torch.contiguous_format])
def test_the_memory_layout_measured_fastest_on_the_first_batch_is_taken(
    monkeypatch: pytest.MonkeyPatch, fastest: torch.memory_format
) -> None:
    def measured(network: nn.Module, x: Tensor, layout: torch.memory_format) -> float:
        return 1.0 if layout is fastest else 2.0

    monkeypatch.setattr("timm_gam.inference.optimization.time_of", measured)
    network = timm_gam.optimize(trained_looking("test_resnet_gam"), compiled=False)
    assert network.memory_format is None and not any("memory layout" in line for line in network.applied)
    network(images(trained_looking("test_resnet_gam")))
    assert network.memory_format is fastest
    name = {torch.channels_last: "channels_last", torch.contiguous_format: "NCHW"}[fastest]
    assert [line for line in network.applied if "memory layout" in line] == [f"memory layout {name}"]


def test_import_brings_no_extension_compiler_and_so_none_of_its_warnings() -> None:
    code = "import sys, timm_gam; sys.exit('torch.utils.cpp_extension' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
