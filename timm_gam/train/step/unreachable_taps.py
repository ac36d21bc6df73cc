"""Gradients of kernel taps that meet nothing but padding: zero, whatever the convolution library says.

A 7x7 kernel on a map of 2x2 has taps that no pixel ever meets. Their gradient is zero, but oneDNN leaves it unwritten
in bfloat16 on processors with AVX512_BF16 and no AMX (seen with torch 2.14.1 on an AMD EPYC): what lay in that memory
reaches the weights, now and then as NaN. In bfloat16 the forward pass skips those taps, so no loss shows it; in float32
it multiplies them by padding, and the kept network gives NaN.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.inference import map_sizes


def zero_unreachable_gradients(network: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Have the gradients of unreachable taps set to zero as they arrive, for images of one size.

    Args:
        network: (B, channels, height, width) float32 -> anything; left in the mode it is in.
        input_size: (channels, height, width).

    Returns:
        How many convolutions have such taps.
    """
    modes = {module: module.training for module in network.modules()}
    sizes = map_sizes(network.eval(), torch.zeros(1, *input_size, device=next(network.parameters()).device))
    for module, mode in modes.items():
        module.training = mode
    found = 0
    for conv, met in sizes.items():
        if conv.padding_mode != "zeros" or not conv.weight.requires_grad:
            continue
        count = torch.stack([_reached(conv, size) for size in met]).sum(dim=0)
        if not 0 < (count > 0).sum() < count.numel():
            continue
        found += 1
        conv.weight.register_hook(partial(_zero, reached=count > 0))  # type: ignore[no-untyped-call]
    return found


def _zero(gradient: Tensor, reached: Tensor) -> None:
    """In place, as a copy of GAM's gradients would cost a sixth of an update: autocast made this one anew."""
    gradient[..., ~reached.any(dim=1), :] = 0
    gradient[..., ~reached.any(dim=0)] = 0


def _reached(conv: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """(kernel height, kernel width): how many pixels each tap meets."""
    kernel = torch.ones(1, 1, *conv.kernel_size, device=conv.weight.device, requires_grad=True)
    ones = torch.ones(1, 1, *size, device=kernel.device)
    met = F.conv2d(ones, kernel, stride=conv.stride, padding=conv.padding, dilation=conv.dilation).sum()
    (count,) = torch.autograd.grad(met, kernel)
    return count[0, 0].round()
