"""Prepare a model for inference: the same outputs, sooner.

    network = timm_gam.optimize(model)                        # exact, up to the order of float32 sums
    network = timm_gam.optimize(model, dtype=torch.bfloat16)  # faster, not exact
    print(network.applied)                                    # what was done, and what could not be

Batch norms become part of the convolutions before them. Measured on the first batch are which memory layout is faster
here, and whether large kernels are faster in another form: on a CPU column by column on small maps
(`column_convolution.py`), on a GPU as one product of all taps (`tap_convolution.py`). torch.compile
freezes the weights: each is packed once for its kernel instead of at every call, and a gate is computed together with
its convolution. Where no compiler is installed the rest still holds, and `applied` says so.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from timm_gam.core import one_line
from timm_gam.inference.column_convolution import ColumnConv2d, is_narrow
from timm_gam.inference.large_convolutions import replace_large_convolutions
from timm_gam.inference.tap_convolution import TapConv2d, is_faster
from timm_gam.inference.timing import seconds as time_of


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

    >>> import timm, timm_gam, torch
    >>> network = timm_gam.optimize(timm.create_model("test_resnet_gam", num_classes=5), compiled=False)
    >>> tuple(network(torch.zeros(2, 3, 64, 64)).shape)
    (2, 5)
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype}; legal: torch.bfloat16, torch.float16, None")
    network, before = fold_batch_norms(model), _batch_norms(model)
    applied = [f"{before - _batch_norms(network)} of {before} batch norms folded into convolutions"] if before else []
    return OptimizedNetwork(network, dtype, compiled, applied)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A frozen copy of `model` in eval mode, its batch norms folded into the convolutions before them where it can be
    traced."""
    network: nn.Module = reparameterize_model(copy.deepcopy(model).eval().requires_grad_(False), inplace=True)
    try:
        return fuse(network, inplace=True)
    except Exception:  # torch.fx refuses control flow that depends on data, with many kinds of error
        return network


class OptimizedNetwork(nn.Module):
    """A frozen network: (B, 3, H, W) float32 -> what the model gives, a tensor or feature maps, as float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype | None, compiled: bool, applied: list[str]) -> None:
        super().__init__()
        self.network, self.dtype, self.compiled, self._changes = network, dtype, compiled, applied
        if dtype is not None:
            self._changes.append(f"mixed precision {str(dtype).removeprefix('torch.')}")
        self.memory_format: torch.memory_format | None = None  # unknown until a batch comes
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compilation = ""

    @property
    def applied(self) -> list[str]:
        """What was done to the model; complete after the first batch, also with what could not be done."""
        return [*self._changes, *filter(None, [self._compilation])]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            if self.memory_format is None:
                self.memory_format = self._prepare(x)
                if self.compiled:
                    self._compile()
            x = x.contiguous(memory_format=self.memory_format)
            if self._compiled is None:
                return _float32(self.network(x))
            try:
                return _float32(self._compiled(x))
            except Exception as error:  # Dynamo, Inductor and the C++ compiler each raise their own
                out = _float32(self.network(x))  # where the batch is at fault, its own error comes from here
                reason = one_line(error)
                self._compiled, self._compilation = None, f"not compiled: {reason}"
                warnings.warn(f"torch.compile failed, the model runs without it: {reason}", stacklevel=2)
                return out

    def _prepare(self, x: Tensor) -> torch.memory_format:
        """Choose the memory layout, and in which form large kernels run, by what each takes here."""
        taps = 0
        if x.device.type != "cpu":
            taps = replace_large_convolutions(self.network, x, TapConv2d, partial(is_faster, count=len(x), known={}))
        x = x[:_SAMPLE]
        seconds = {layout: time_of(self.network.to(memory_format=layout), x, layout) for layout in _LAYOUTS}
        best = min(seconds, key=seconds.__getitem__)
        self.network.to(memory_format=best)
        self._changes.append(f"memory layout {_LAYOUTS[best]}")
        if taps:
            self._changes.append(f"{taps} large convolutions as products of all taps")
        if x.device.type != "cpu":
            return best
        by_columns = copy.deepcopy(self.network)
        count = replace_large_convolutions(by_columns, x, ColumnConv2d, is_narrow)
        if count and time_of(by_columns, x, best) < seconds[best]:
            self.network = by_columns.to(memory_format=best)
            self._changes.append(f"{count} convolutions of small maps by kernel columns")
        return best

    def _compile(self) -> None:
        # Imported here: it costs a second, and warnings where CUDA_HOME is set.
        from torch._inductor import config

        options: dict[str, str | int | bool | Callable[..., Any]] = {
            "layout_optimization": self.memory_format is torch.channels_last
        }
        run = torch.compile(self.network, dynamic=False, options=options)
        # Not an option of torch.compile: those reach Inductor alone, and Dynamo has by then made inputs of the weights.
        self._compiled = config.patch(freezing=True)(run)
        self._compilation = "compiled with frozen weights"


_LAYOUTS = {torch.channels_last: "channels_last", torch.contiguous_format: "NCHW"}
_SAMPLE = 8  # images that are measured


def _float32(output: Any) -> Any:
    return [_float32(part) for part in output] if isinstance(output, list | tuple) else output.float()


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
