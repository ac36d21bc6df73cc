"""Taps that meet only padding get no gradient, whatever the library leaves in their place."""

from __future__ import annotations

import timm
import torch
from torch import nn

from timm_gam.train.step.unreachable_taps import zero_unreachable_gradients


def test_gradients_of_taps_on_padding_are_zero_and_others_pass() -> None:
    # 2x2 maps: of seven taps along each side the middle three meet pixels.
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 5, 7, padding=3))
    network.train()
    assert zero_unreachable_gradients(network, (3, 4, 4)) == 1
    assert network.training
    kernel = network[1].weight
    arriving = torch.full_like(kernel, float("nan"))
    arriving[..., 2:5, 2:5] = 1.0
    kernel.backward(arriving)
    expected = torch.zeros_like(kernel)
    expected[..., 2:5, 2:5] = 1.0
    torch.testing.assert_close(kernel.grad, expected)


def test_true_gradients_are_unchanged() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gam", num_classes=4).train()
    x = torch.randn(4, 3, 32, 32)
    model(x).square().mean().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    assert zero_unreachable_gradients(model, (3, 32, 32)) > 0
    model(x).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, before[name], rtol=1e-3, atol=1e-6)


def test_large_maps_need_nothing() -> None:
    assert zero_unreachable_gradients(timm.create_model("test_resnet_gam"), (3, 160, 160)) == 0
    assert zero_unreachable_gradients(nn.Conv2d(3, 4, 3), (3, 9, 9)) == 0
