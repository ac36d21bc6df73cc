"""Convolution as one product of all taps against torch's own, in float64, and where it is put."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import timm
import torch
from torch import nn

from timm_gam.inference import TapConv2d, tap_convolution
from timm_gam.inference.large_convolutions import replace_large_convolutions


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [(6, 10), (10, 6), (5, 5)])
@pytest.mark.parametrize(("kernel", "size"), [((7, 7), (7, 7)), ((7, 7), (1, 1)), ((5, 7), (6, 14)), ((9, 9), (5, 12))])
def test_it_is_the_convolution(
    kernel: tuple[int, int], size: tuple[int, int], channels: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(*channels, kernel, padding=padding, bias=bias).double().requires_grad_(False)
    x = torch.randn(3, channels[0], *size, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = TapConv2d(conv)(x.contiguous(memory_format=layout))
        assert got.shape == (3, channels[1], *size)
        torch.testing.assert_close(got, conv(x), rtol=1e-12, atol=1e-12)


def test_half_precision_adds_up_in_float32() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 4, 7, padding=3).requires_grad_(False)
    x = torch.randn(2, 64, 14, 14)
    expected = conv(x)
    got = TapConv2d(copy.deepcopy(conv).bfloat16())(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)


def test_it_takes_the_place_of_large_kernels_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings are given: products win at 14x14, and where there are fewer channels after than before."""

    def given(form: nn.Module, maps: torch.Tensor, layout: torch.memory_format) -> float:
        wins = maps.shape[-1] == 14 or maps.shape[1] == 32
        return 1.0 if isinstance(form, TapConv2d) is wins else 2.0

    monkeypatch.setattr(tap_convolution, "seconds", given)
    torch.manual_seed(0)
    for side, replaced in ((14, [True, True, False]), (7, [True, False, False])):
        network = nn.Sequential(
            nn.Conv2d(32, 4, 7, padding=3), nn.Conv2d(4, 32, 7, padding=3), nn.Conv2d(32, 8, 3, padding=1)
        ).requires_grad_(False)
        x = torch.randn(2, 32, side, side)
        expected = network(x)
        suits = partial(tap_convolution.is_faster, count=2, known={})
        assert replace_large_convolutions(network, x, TapConv2d, suits) == sum(replaced)
        assert [isinstance(module, TapConv2d) for module in network] == replaced
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_of_them_gives_the_same_embeddings() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gam", num_classes=0).eval().requires_grad_(False)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7) and module.stride == (1, 1):
            model.set_submodule(name, TapConv2d(module))
    assert any(isinstance(module, TapConv2d) for module in model.modules())
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
