"""Global Attention Mechanism: channel attention, then spatial attention, neither with any pooling.

Liu, Shao, Hoffmann, "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions",
arXiv 2112.05561; used for image retrieval by Tang, Jiang, Yang, "Research on Image Retrieval Algorithms Based on
Global Attention Mechanism" (Hans Publishers, 2023).

    F' = Mc(F) * F        Mc: two-layer perceptron over the channels of every position, then a sigmoid   (eq. 1)
    F" = Ms(F') * F'      Ms: two 7x7 convolutions C -> C/r -> C with batch norm, then a sigmoid         (eq. 2)

Where the paper of 2023 speaks of fusing the network's original features with the attended ones: that is the
residual add of the bottleneck that holds this layer, `x + F"`. There is no other fusion.

The published description permutes to (H, W, C) and applies linear layers; a 1x1 convolution is the same map without
moving memory. Public snippets of this layer disagree with the paper and each other: some drop the channel sigmoid, most
use r = 4 (528 M parameters in a ResNet50 instead of the paper's 151.4 M, which is r = 16), and the grouped ones
shuffle channels after the gate, which multiplies each channel by another one's gate. Here the shuffle stands
between the two grouped convolutions, so that groups exchange information and the gate keeps its channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class GlobalAttention(nn.Module):
    """GAM over feature maps: (B, C, H, W) float -> the same shape, every value scaled by a gate in (0, 1).

    Args:
        channels: C, a multiple of `groups`.
        rd_ratio: 1/r, the width of both bottlenecks relative to C. The paper's parameter count gives r = 16.
        groups: Groups of the two 7x7 convolutions; 1 is the paper's, more are cheaper.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: `groups` does not divide C and its reduced width.

    >>> GlobalAttention(64)(torch.rand(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1.0 / 16,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, rd_ratio, device=device, dtype=dtype)
        self.spatial = SpatialAttention(channels, rd_ratio, groups, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Draw all parameters anew from PyTorch's defaults for each layer, as the published code does."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.reset_parameters()


class ChannelAttention(nn.Module):
    """Mc of equation 1, applied: (B, C, H, W) -> the same shape. One gate per channel and position."""

    def __init__(self, channels: int, rd_ratio: float, **factory: Any) -> None:
        super().__init__()
        reduced = _reduced(channels, rd_ratio)
        self.fc1 = nn.Conv2d(channels, reduced, 1, **factory)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(reduced, channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(x))).sigmoid()  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Ms of equation 2, applied: (B, C, H, W) -> the same shape. One gate per channel and position."""

    def __init__(self, channels: int, rd_ratio: float, groups: int, **factory: Any) -> None:
        super().__init__()
        reduced = _reduced(channels, rd_ratio)
        if channels % groups or reduced % groups:
            raise ValueError(f"groups={groups} must divide {channels} channels and the reduced {reduced}")
        self.conv1 = nn.Conv2d(channels, reduced, 7, padding=3, groups=groups, **factory)
        self.bn1 = nn.BatchNorm2d(reduced, **factory)
        self.act = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.conv2 = nn.Conv2d(reduced, channels, 7, padding=3, groups=groups, **factory)
        self.bn2 = nn.BatchNorm2d(channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.shuffle(self.act(self.bn1(self.conv1(x))))
        return x * self.bn2(self.conv2(gate)).sigmoid()  # type: ignore[no-any-return]

    def reparameterize(self) -> None:
        """Fold both batch norms into their convolutions, for inference; timm's `reparameterize_model` calls this."""
        if isinstance(self.bn1, nn.BatchNorm2d) and isinstance(self.bn2, nn.BatchNorm2d):
            self.conv1, self.bn1 = fuse_conv_bn_eval(self.conv1, self.bn1), nn.Identity()  # type: ignore[assignment]
            self.conv2, self.bn2 = fuse_conv_bn_eval(self.conv2, self.bn2), nn.Identity()  # type: ignore[assignment]


def _reduced(channels: int, rd_ratio: float) -> int:
    return max(1, int(channels * rd_ratio))
