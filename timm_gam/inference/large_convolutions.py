"""The large convolutions of a network: the maps they meet, and another form in their place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeGuard

import torch
from torch import Tensor, nn

Sizes = set[tuple[int, int]]
"""(height, width) of all maps that a convolution meets."""


def map_sizes(network: nn.Module, x: Tensor) -> dict[nn.Conv2d, Sizes]:
    """Run a network once, without gradients, in the mode it is in.

    Args:
        network: (B, channels, height, width) -> anything.
        x: A batch.

    Returns:
        For each convolution that ran, the (height, width) of its inputs.
    """
    sizes: dict[nn.Conv2d, Sizes] = {}

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        sizes.setdefault(conv, set()).add((height, width))

    with ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                hooks.enter_context(module.register_forward_pre_hook(look))
        network(x)
    return sizes


def replace_large_convolutions(
    network: nn.Module,
    x: Tensor,
    form: Callable[[nn.Conv2d], nn.Module],
    suits: Callable[[nn.Conv2d, Sizes], bool],
) -> int:
    """Put another form in the place of the large convolutions it suits, at the map sizes that a batch has.

    Args:
        network: Changed in place, if at all.
        x: (B, 3, H, W), a batch, on the network's device.
        form: A convolution -> what computes the same.
        suits: Whether it is faster for a convolution and its map sizes.

    Returns:
        How many were replaced.
    """
    large = [(name, module) for name, module in network.named_modules() if _is_large(module)]
    sizes = map_sizes(network, x[:1]) if large else {}
    suited = [(name, conv) for name, conv in large if conv in sizes and suits(conv, sizes[conv])]
    for name, conv in suited:
        network.set_submodule(name, form(conv))
    return len(suited)


def _is_large(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a dense stride 1 convolution of 5x5 or more, padded to the size of its input."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.stride == module.dilation == (1, 1)
        and min(module.kernel_size) >= 5
        and all(side % 2 for side in module.kernel_size)
        and module.padding in ("same", tuple(side // 2 for side in module.kernel_size))
        and module.padding_mode == "zeros"
    )
