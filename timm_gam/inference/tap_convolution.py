"""Large convolutions between many and few channels, such as GAM's 7x7 ones, as one matrix product over all taps.

cuDNN has few kernels for them: on an H200 (bfloat16, 224 px, batch 128) GAM's 7x7 convolutions ran at 2 to 38 % of the
peak of its matrix units (`benchmarks/results/gpu_h200.json`): the slowest kernels do not use those units at all.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.inference.large_convolutions import Sizes
from timm_gam.inference.timing import seconds


class TapConv2d(nn.Module):
    """A stride 1 convolution with "same" padding, (B, C, H, W) -> (B, D, H, W), as a 1x1 convolution of all taps.

    To fewer channels, the product gives the share of every tap, and shifted shares add up. To more channels, shifted
    maps lie side by side, and one product takes them all. Either way the larger of both maps is read or written once.
    Sums are rounded in another order than the convolution's.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.kernel_size, self.out_channels = conv.kernel_size, conv.out_channels
        self.narrows = conv.out_channels < conv.in_channels
        taps = conv.weight.permute(2, 3, 0, 1)  # (height, width, D, C)
        weight = taps.flatten(0, 2) if self.narrows else taps.permute(2, 0, 1, 3).flatten(1)
        self.product = nn.Conv2d(
            weight.shape[1], weight.shape[0], 1, bias=conv.bias is not None and not self.narrows, device="meta"
        )
        self.product.weight = nn.Parameter(weight[:, :, None, None].contiguous(), conv.weight.requires_grad)
        if self.product.bias is not None:
            self.product.bias = conv.bias
        self.bias = conv.bias if self.narrows else None

    def forward(self, x: Tensor) -> Tensor:
        (high, wide), (height, width) = self.kernel_size, x.shape[-2:]
        padding = (wide // 2, wide // 2, high // 2, high // 2)
        padded = F.pad(self.product(x) if self.narrows else x, padding)
        shifts = [(i, j) for i in range(high) for j in range(wide)]
        if not self.narrows:
            patches = torch.cat([padded[:, :, i : i + height, j : j + width] for i, j in shifts], dim=1)
            return self.product(patches)  # type: ignore[no-any-return]
        exact = torch.promote_types(padded.dtype, torch.float32)
        out = torch.zeros((), dtype=exact, device=x.device)
        for tap, (i, j) in enumerate(shifts):
            own = slice(tap * self.out_channels, (tap + 1) * self.out_channels)
            out = out + padded[:, own, i : i + height, j : j + width].to(exact)
        if self.bias is not None:
            out = out + self.bias[:, None, None]
        return out.to(padded.dtype)


def is_faster(conv: nn.Conv2d, sizes: Sizes, *, count: int, known: dict[object, bool]) -> bool:
    """Whether products of all taps are, for so many maps of each size; `known` keeps what was measured.

    Each is measured as it is, before the network is compiled. Taking those to fewer channels unmeasured, as compiled
    they alone are up to 30 times as fast, gave a network of 2,924 images/s instead of 3,529 whose first batch took
    157 s instead of 61 (`benchmarks/results/gpu_h200.json`).
    """
    device, layout = conv.weight.device, torch.channels_last
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else conv.weight.dtype
    for size in sizes:
        key = (conv.in_channels, conv.out_channels, conv.kernel_size, size)
        if key not in known:
            maps = torch.randn(count, conv.in_channels, *size, device=device, dtype=dtype)
            forms = (copy.deepcopy(conv), TapConv2d(conv))
            as_it_is, by_taps = (seconds(form.to(memory_format=layout), maps, layout) for form in forms)
            known[key] = by_taps < as_it_is
        if not known[key]:
            return False
    return True
