"""Batch norm over the batch of all processes, so that several devices compute what one does with the same batch.

On CUDA that is torch's SyncBatchNorm, through timm. It refuses the CPU, so gloo runs have their own here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

_sum: Callable[[Tensor], Tensor] = all_reduce
"""Over all processes. So is its gradient, as each process's loss depends on every share."""


def synchronise_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace the batch norms of `model` by synchronised ones; names and values of its state dict stay.

    On the CPU this covers torch's own BatchNorm2d; subclasses keep the statistics of each process.
    """
    if device.type != "cpu":
        synchronised: nn.Module = convert_sync_batchnorm(model)
        return synchronised
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _GlobalBatchNorm2d
    return model


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """(B, C, H, W) float -> the same; B is this process's share, the statistics are of all shares."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        values = x.float()
        count = _sum(values.new_tensor(values.numel() / values.shape[1]))
        mean = _sum(values.sum((0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        out = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        if self.affine:
            out = out * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)
