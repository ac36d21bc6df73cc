"""Prepare a model for inference: the same outputs, sooner.

    network = timm_gam.optimize(model)                        # exact, up to the order of float32 sums
    network = timm_gam.optimize(model, dtype=torch.bfloat16)  # faster, not exact
    print(network.applied)                                    # what was done, and what could not be

Batch norms become part of the convolutions before them, weights are laid out channels-last, and torch.compile freezes
them: each is then packed once for its kernel instead of at every call, and a gate is computed together with the product
it scales. Where no compiler is installed the rest still holds, and `applied` says so.
"""

from __future__ import annotations

import copy
import warnings

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

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
    network = network.to(memory_format=torch.channels_last)
    applied.append("channels_last")
    return OptimizedNetwork(network, dtype, compiled, applied)


class OptimizedNetwork(nn.Module):
    """A frozen network: (B, 3, H, W) float32 -> what the model gives, as float32.

    Attributes:
        applied: What was done to the model, and after the first batch also what could not be.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None, compiled: bool, applied: list[str]) -> None:
        super().__init__()
        self.network, self.dtype, self.applied = network, dtype, applied
        if dtype is not None:
            self.applied.append(f"mixed precision {str(dtype).removeprefix('torch.')}")
        self._compiled = torch.compile(network, options={"freezing": True}) if compiled else None
        if compiled:
            self.applied.append("compiled with frozen weights")

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            out: Tensor = self._run(x)
        return out.float()

    def _run(self, x: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                out: Tensor = self._compiled(x)
                return out
            except Exception as error:  # Dynamo, Inductor and the C++ compiler each raise their own
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._compiled = None
                self.applied[-1] = f"not compiled: {reason}"
                warnings.warn(f"torch.compile failed, the model runs without it: {reason}", stacklevel=2)
        return self.network(x)  # type: ignore[no-any-return]


def _folded(network: nn.Module) -> nn.Module:
    """Batch norms folded into the convolutions before them, where the network can be traced; else as it was."""
    try:
        return fuse(network, inplace=True)
    except Exception:  # torch.fx refuses control flow that depends on data, with many kinds of error
        return network


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
