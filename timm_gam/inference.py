"""Prepare a model for inference: the same outputs, sooner.

    network = timm_gam.optimize(model)                        # exact, up to the order of float32 sums
    network = timm_gam.optimize(model, dtype=torch.bfloat16)  # faster, not exact
    print(network.applied)                                    # what was done, and what could not be

Batch norms become part of the convolutions before them, the faster of the two memory layouts is measured on the first
batch, and torch.compile freezes the weights: each is then packed once for its kernel instead of at every call, and a
gate is computed together with the product it scales. Where no compiler is installed the rest still holds, and
`applied` says so.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.benchmark import Timer

__all__ = ["OptimizedNetwork", "optimize"]


def optimize(model: nn.Module, *, dtype: torch.dtype | None = None, compiled: bool = True) -> OptimizedNetwork:
    """Make a copy of `model` for inference; the model itself is left as it is.

    Args:
        model: Any timm model, or a network made of one, on the device it shall run on.
        dtype: torch.bfloat16 or torch.float16 for mixed precision, None for the model's own.
        compiled: Use torch.compile where a compiler is found. The first batch of each shape then takes longer, from
            seconds to a minute.

    Returns:
        A network in eval mode whose weights are frozen: later changes to them have no effect.

    Raises:
        ValueError: another `dtype`.
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype}; legal: torch.bfloat16, torch.float16, None")
    network = copy.deepcopy(model).eval().requires_grad_(False)
    before = _batch_norms(network)
    network = _folded(reparameterize_model(network, inplace=True))
    applied = [f"{before - _batch_norms(network)} of {before} batch norms folded into convolutions"] if before else []
    return OptimizedNetwork(network, dtype, compiled, applied)


class OptimizedNetwork(nn.Module):
    """A frozen network: (B, 3, H, W) float32 -> what the model gives, as float32.

    Attributes:
        applied: What was done to the model; complete after the first batch, also with what could not be done.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None, compiled: bool, applied: list[str]) -> None:
        super().__init__()
        self.network, self.dtype, self.compiled, self.applied = network, dtype, compiled, applied
        if dtype is not None:
            self.applied.append(f"mixed precision {str(dtype).removeprefix('torch.')}")
        self.memory_format: torch.memory_format | None = None  # unknown until a batch comes
        self._run: Callable[[Tensor], Tensor] = network

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            if self.memory_format is None:
                self._prepare(x)
            x = x.contiguous(memory_format=self.memory_format or torch.contiguous_format)
            try:
                out = self._run(x)
            except Exception as error:  # Dynamo, Inductor and the C++ compiler each raise their own
                if self._run is self.network:
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._run, self.applied[-1] = self.network, f"not compiled: {reason}"
                warnings.warn(f"torch.compile failed, the model runs without it: {reason}", stacklevel=2)
                out = self._run(x)
        return out.float()

    def _prepare(self, x: Tensor) -> None:
        self.memory_format = _faster_layout(self.network, x[:_MEASURED_IMAGES])
        self.network.to(memory_format=self.memory_format)
        channels_last = self.memory_format is torch.channels_last
        self.applied.append(f"memory layout {'channels_last' if channels_last else 'NCHW'}, the faster here")
        if self.compiled:
            options: dict[str, Any] = {"freezing": True, "layout_optimization": channels_last}
            self._run = torch.compile(self.network, options=options)
            self.applied.append("compiled with frozen weights")


_LAYOUTS = (torch.channels_last, torch.contiguous_format)
_MEASURED_IMAGES = 8


def _faster_layout(network: nn.Module, x: Tensor) -> torch.memory_format:
    """On some processors 7x7 convolutions of small maps are twice as fast in one layout, on others in the other."""
    seconds = {}
    for layout in _LAYOUTS:
        network.to(memory_format=layout)
        batch = x.contiguous(memory_format=layout)
        timer = Timer("network(x)", globals={"network": network, "x": batch}, num_threads=torch.get_num_threads())
        seconds[layout] = timer.timeit(2).mean  # warmed up by the timer
    return min(_LAYOUTS, key=seconds.__getitem__)


def _folded(network: nn.Module) -> nn.Module:
    """Batch norms folded into the convolutions before them, where the network can be traced; else as it was."""
    try:
        return fuse(network, inplace=True)
    except Exception:  # torch.fx refuses control flow that depends on data, with many kinds of error
        return network


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
