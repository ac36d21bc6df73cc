"""The file formats: how each is written from a torch.export program, and how it is read back and run.

Reading back is for files that this process has just written. A .pt2 file holds pickled objects, and an AOTInductor
package a shared library: loading either from a stranger runs the stranger's code. An ONNX file holds data only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from timm_gam.core import ExportError

Run = Callable[[Tensor], Tensor]
"""(B, 3, H, W) float32 on the CPU -> (B, D) float32."""

_OPSET = 18  # what torch translates to directly in every release we support, without a conversion
_INLINE_BYTES = 1_500_000_000  # an ONNX file itself must stay below 2 GB; larger weights lie in a file beside it


@dataclass(frozen=True)
class Format:
    """A way to write a network.

    Attributes:
        file: Name of the file it writes.
        require: Raises ExportError where this machine lacks what it needs.
        write: (program, path, input name, output name) -> facts for the record.
        load: The file just written -> a function that runs it.
    """

    file: str
    require: Callable[[], None]
    write: Callable[[ExportedProgram, Path, str, str], dict[str, Any]]
    load: Callable[[Path], Run]


def _require_onnx() -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ExportError(f"ONNX needs {', '.join(missing)}, not installed here; pip install 'timm-gam[export]'")


def _write_onnx(program: ExportedProgram, path: Path, input_name: str, output_name: str) -> dict[str, Any]:
    import onnx
    import onnxruntime

    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with _suppressed_output():
        written = torch.onnx.export(
            program, (), input_names=[input_name], output_names=[output_name], opset_version=_OPSET, dynamo=True
        )
    if written is None:
        raise ExportError("torch.onnx.export gave no program")
    _tidy(written.model, input_name)
    written.save(str(path), external_data=size > _INLINE_BYTES)
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": model.ir_version, "checked_with": f"onnxruntime {onnxruntime.__version__}"}


def _tidy(model: Any, input_name: str) -> None:
    """Name the batch axis, and drop the exporter's notes on every node: they hold stack traces and paths of ours."""
    symbol = model.graph.inputs[0].shape[0]
    for node in model.graph:
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
        if value.shape is not None and str(value.shape[0]) == str(symbol):
            value.shape[0] = "batch"
    model.metadata_props.clear()


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _write_torch(program: ExportedProgram, path: Path, input_name: str, output_name: str) -> dict[str, Any]:
    torch.export.save(program, path)
    return {}


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:
        raise ExportError("aoti needs a C++ compiler, and none was found; install g++, or name one in CXX") from error


def _write_aoti(program: ExportedProgram, path: Path, input_name: str, output_name: str) -> dict[str, Any]:
    from timm_gam.core import hardware

    with _suppressed_output():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    machine = hardware()
    return {"compiled_for": {"machine": machine["machine"], "processor": machine["processor"]}}


@contextlib.contextmanager
def _suppressed_output() -> Iterator[None]:
    """Within, the exporters' progress lines and notes on their own deprecations are not shown."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


FORMATS = {
    "onnx": Format("model.onnx", _require_onnx, _write_onnx, _load_onnx),
    "torch": Format("model.pt2", lambda: None, _write_torch, lambda path: torch.export.load(path).module()),
    "aoti": Format(
        "model.aoti.pt2", _require_compiler, _write_aoti, lambda path: torch._inductor.aoti_load_package(str(path))
    ),
}
"""--format -> how it is done."""
