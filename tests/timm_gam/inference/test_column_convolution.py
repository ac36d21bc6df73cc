"""Convolution by kernel columns against torch's own, in float64, and where it is put."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from timm_gam.inference.column_convolution import ColumnConv2d, is_narrow
from timm_gam.inference.large_convolutions import replace_large_convolutions


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "size"),
    [((7, 7), (7, 7)), ((7, 7), (1, 1)), ((7, 7), (2, 3)), ((5, 7), (6, 14)), ((7, 5), (9, 4)), ((9, 9), (5, 12))],
)
def test_it_is_the_convolution(kernel: tuple[int, int], size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(6, 10, kernel, padding=padding, bias=bias).double().requires_grad_(False)
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = ColumnConv2d(conv)(x.contiguous(memory_format=layout))
        assert got.shape == (3, 10, *size)
        torch.testing.assert_close(got, conv(x), rtol=1e-12, atol=1e-12)


def test_it_takes_the_place_of_large_kernels_on_small_maps_alone() -> None:
    torch.manual_seed(0)
    wide, narrow = nn.Conv2d(8, 4, 7, padding=3), nn.Conv2d(4, 8, 7, padding="same")
    others = [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
        nn.Conv2d(8, 8, 7, padding=6, dilation=2),
        nn.Conv2d(8, 8, 7, padding=3, padding_mode="reflect"),
    ]
    network = nn.Sequential(wide, narrow, *others).requires_grad_(False)
    for side, replaced in ((7, (True, True)), (14, (True, False)), (15, (False, False))):
        x = torch.randn(2, 8, side, side)
        by_columns = copy.deepcopy(network)
        assert replace_large_convolutions(by_columns, x, ColumnConv2d, is_narrow) == sum(replaced)
        assert [isinstance(module, ColumnConv2d) for module in by_columns[:2]] == list(replaced)
        assert not any(isinstance(module, ColumnConv2d) for module in by_columns[2:])
        torch.testing.assert_close(by_columns(x), network(x), rtol=1e-4, atol=1e-5)


def test_other_networks_are_left_as_they_are() -> None:
    for name in ("test_convnext", "test_resnet_se", "test_vit"):
        model = timm.create_model(name).eval().requires_grad_(False)
        before = [type(module) for module in model.modules()]
        assert replace_large_convolutions(model, torch.randn(1, 3, 160, 160), ColumnConv2d, is_narrow) == 0
        assert [type(module) for module in model.modules()] == before
