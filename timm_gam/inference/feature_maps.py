"""The feature maps that each convolution of a network meets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def map_sizes(network: nn.Module, x: Tensor) -> dict[nn.Conv2d, set[tuple[int, int]]]:
    """Run a network once, without gradients, in the mode it is in.

    Args:
        network: (B, channels, height, width) -> anything.
        x: A batch.

    Returns:
        For each convolution that ran, the (height, width) of its inputs.
    """
    sizes: dict[nn.Conv2d, set[tuple[int, int]]] = {}

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        sizes.setdefault(conv, set()).add((height, width))

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes
