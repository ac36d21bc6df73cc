"""GAM against an independent permute + Linear reading of the papers, in float64, forward and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from timm_gam.models import GlobalAttention


class PublishedForm(nn.Module):
    """The papers' description to the letter: permute, two linear layers, permute back; then two 7x7 convolutions."""

    def __init__(self, channels: int, reduction: int, groups: int) -> None:
        super().__init__()
        inner = channels // reduction
        self.groups = groups
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))
        self.conv1 = nn.Conv2d(channels, inner, 7, padding=3, groups=groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 7, padding=3, groups=groups)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x * torch.sigmoid(gate)
        y = torch.relu(self.bn1(self.conv1(x)))
        if self.groups > 1:  # channel j of group i becomes channel i of position j
            b, c, h, w = y.shape
            order = [i * (c // self.groups) + j for j in range(c // self.groups) for i in range(self.groups)]
            y = y[:, order]
        return x * torch.sigmoid(self.bn2(self.conv2(y)))


def paired(channels: int, groups: int) -> tuple[GlobalAttention, PublishedForm, dict[str, str]]:
    torch.manual_seed(0)
    ours, theirs = GlobalAttention(channels, groups=groups).double(), PublishedForm(channels, 16, groups).double()
    names = {
        "channel.fc1.weight": "mlp.0.weight",
        "channel.fc1.bias": "mlp.0.bias",
        "channel.fc2.weight": "mlp.2.weight",
        "channel.fc2.bias": "mlp.2.bias",
    } | {
        f"spatial.{layer}.{part}": f"{layer}.{part}"
        for layer in ("conv1", "bn1", "conv2", "bn2")
        for part in ("weight", "bias")
    }
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
            theirs.get_parameter(names[name]).copy_(parameter.reshape(theirs.get_parameter(names[name]).shape))
    return ours, theirs, names


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_equals_permute_and_linear_forward_and_backward(groups: int, training: bool) -> None:
    ours, theirs, names = paired(128, groups)
    ours.train(training)
    theirs.train(training)
    x = torch.randn(3, 128, 9, 7, dtype=torch.float64)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), theirs(x2)
    torch.testing.assert_close(y1, y2, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(y1)
    y1.backward(seed)
    y2.backward(seed)
    torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-10, atol=1e-10)
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(names[name]).grad
        assert parameter.grad is not None
        assert expected is not None
        torch.testing.assert_close(parameter.grad.reshape(expected.shape), expected, rtol=1e-10, atol=1e-10)


def test_gates_average_a_quarter_at_their_default_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 256, 14, 14)
    gate = GlobalAttention(256).train()(x) / x
    assert gate.mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((gate > 0) & (gate < 1)).all()


def test_groups_exchange_information() -> None:
    # With the shuffle between the two grouped convolutions, every output group hears every input group.
    attention = GlobalAttention(256, groups=4).double().eval()
    x = torch.randn(1, 256, 5, 5, dtype=torch.float64, requires_grad=True)
    (attention.spatial(x)[0, 0] / x[0, 0].detach()).sum().backward()
    assert x.grad is not None
    heard = x.grad[0].abs().sum((1, 2)).reshape(4, 64).sum(1)
    assert (heard > 0).all()


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="groups=3 must divide 64"):
        GlobalAttention(64, groups=3)
