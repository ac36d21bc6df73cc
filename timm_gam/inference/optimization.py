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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from timm_gam.inference.column_convolution import with_column_convolutions
from timm_gam.inference.tap_convolution import with_tap_convolutions
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
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype}; legal: torch.bfloat16, torch.float16, None")
    network, before = fold_batch_norms(model), _batch_norms(model)
    applied = [f"{before - _batch_norms(network)} of {before} batch norms folded into convolutions"] if before else []
    return OptimizedNetwork(network, dtype, compiled, applied)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A frozen copy of `model` in eval mode, its batch norms folded into the convolutions before them where it can be
    traced."""
    return _folded(reparameterize_model(copy.deepcopy(model).eval().requires_grad_(False), inplace=True))


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
        self._compiled: Run | None = None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            if self.memory_format is None:
                self._prepare(x)
            x = x.contiguous(memory_format=self.memory_format or torch.contiguous_format)
            if self._compiled is not None:
                try:
                    return self._compiled(x).float()
                except Exception as error:  # Dynamo, Inductor and the C++ compiler each raise their own
                    self._give_up_compiling(error)
            return self.network(x).float()  # type: ignore[no-any-return]

    def _prepare(self, x: Tensor) -> None:
        """Choose a form of the network by what each takes here."""
        on_cpu = x.device.type == "cpu"
        taps = 0 if on_cpu else with_tap_convolutions(self.network, x)
        seconds = {layout: time_of(self.network.to(memory_format=layout), x[:_SAMPLE], layout) for layout in _LAYOUTS}
        fastest = min(seconds, key=seconds.__getitem__)
        if self.compiled:
            self.applied.append("compiled with frozen weights")
            # Elsewhere one is compiled: it takes longer there than the choice can give.
            close = (
                [layout for layout in _LAYOUTS if seconds[layout] < _CLEARLY * seconds[fastest]]
                if on_cpu
                else [fastest]
            )
            try:
                best = _fastest(self.network, close, x, _Compiled)
                self._compiled = best.run
            except Exception as error:
                self._give_up_compiling(error)
        if self._compiled is None:
            best = _fastest(self.network, [fastest], x[:_SAMPLE], _laid_out)
        self.network, self.memory_format = best.network.to(memory_format=best.layout), best.layout
        done = [f"memory layout {_NAMES[best.layout]}"]
        if taps:
            done.append(f"{taps} large convolutions as products of all taps")
        if best.columns:
            done.append(f"{best.columns} convolutions of small maps by kernel columns")
        end = len(self.applied) - self.compiled  # what is said of compiling stays last
        self.applied[end:end] = done

    def _give_up_compiling(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self._compiled, self.applied[-1] = None, f"not compiled: {reason}"
        warnings.warn(f"torch.compile failed, the model runs without it: {reason}", stacklevel=3)


Run = Callable[[Tensor], Tensor]

_NAMES = {torch.channels_last: "channels_last", torch.contiguous_format: "NCHW"}
_LAYOUTS = tuple(_NAMES)
_SAMPLE = 8  # images that are measured without a compiler
_CLEARLY = 1.25  # times slower: not worth compiling


@dataclass(frozen=True)
class _Form:
    """A network as it may be run: in a layout, with some convolutions by their kernel's columns."""

    network: nn.Module
    layout: torch.memory_format
    columns: int
    run: Run
    seconds: float


def _fastest(
    network: nn.Module,
    layouts: Sequence[torch.memory_format],
    x: Tensor,
    prepare: Callable[[nn.Module, torch.memory_format], Run],
) -> _Form:
    """The faster layout, with kernel columns where these are faster still."""

    def measured(network: nn.Module, layout: torch.memory_format, columns: int) -> _Form:
        run = prepare(network, layout)
        return _Form(network, layout, columns, run, time_of(run, x, layout))

    forms = [measured(network, layout, 0) for layout in layouts]
    best = min(forms, key=lambda form: form.seconds)
    by_columns = copy.deepcopy(network) if x.device.type == "cpu" else network
    if x.device.type == "cpu" and (columns := with_column_convolutions(by_columns, x)):
        forms.append(measured(by_columns, best.layout, columns))
        best = min(forms, key=lambda form: form.seconds)
    for form in forms:
        if form is not best and isinstance(form.run, _Compiled):
            form.run.release()
    return best


def _laid_out(network: nn.Module, layout: torch.memory_format) -> Run:
    return network.to(memory_format=layout)


class _Compiled:
    """A copy of a network in a memory layout, compiled with frozen weights."""

    def __init__(self, network: nn.Module, layout: torch.memory_format) -> None:
        # Imported here: it costs a second, and warnings where CUDA_HOME is set.
        from torch._inductor import codecache, config

        self._network = copy.deepcopy(network).to(memory_format=layout)
        self._run: Run = torch.compile(
            self._network, dynamic=False, options={"layout_optimization": layout is torch.channels_last}
        )
        self._loaded, self._config = codecache.PyCodeCache.modules, config
        self._code: list[ModuleType] = []

    def __call__(self, x: Tensor) -> Tensor:
        known = len(self._loaded)
        # Not an option of torch.compile: those reach Inductor alone, and Dynamo has by then made inputs of the weights.
        with self._config.patch(freezing=True):
            out = self._run(x)
        self._code += self._loaded[known:]
        return out

    def release(self) -> None:
        """Free the weights, for it will not run again: Inductor keeps all code it made, with the constants in it."""
        for module in self._code:
            for name in [name for name in vars(module) if name.startswith("_frozen_param")]:
                delattr(module, name)
        for parameter in self._network.parameters():
            parameter.data = torch.empty(0)


def _folded(network: nn.Module) -> nn.Module:
    """Batch norms folded into the convolutions before them, where the network can be traced; else as it was."""
    try:
        return fuse(network, inplace=True)
    except Exception:  # torch.fx refuses control flow that depends on data, with many kinds of error
        return network


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
