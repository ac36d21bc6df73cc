"""A model -> a folder with its exported files, each read back and compared with the model, and export.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from timm_gam.core import ExportError, OutputError, atomic_path, file_sha256, one_line, versions, write_json
from timm_gam.embed import read_head
from timm_gam.export.formats import FORMATS, Run
from timm_gam.export.network import Layer, network_to_export, output_name
from timm_gam.images import Preprocessing, resolve_preprocessing
from timm_gam.inference import fold_batch_norms
from timm_gam.models import LoadedModel

DOCUMENT = "export.json"
TOLERANCE = 1e-4
"""Largest difference of an output value from the model's, as a share of that image's largest output value."""

INPUT = "images"
_BATCHES = (1, 2, 5)  # the program is traced with another one


def export_model(
    loaded: LoadedModel,
    folder: Path,
    *,
    formats: Sequence[str] = ("onnx",),
    layer: Layer = "pooled",
    normalize: bool = False,
    preprocessing: Preprocessing | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a model in each format, read each file back, and compare it with the model.

    Args:
        loaded: From `eval.load_model`. A head that it has is the last layer, over the views it was trained with.
        folder: Made by this call, whole or not at all.
        formats: Of `FORMATS`.
        layer: "pooled" or "pre_logits" for embeddings, "logits" for the classifier's output.
        normalize: Embeddings of unit length.
        preprocessing: Default: the model's own. The side of its input is the exported one's.
        log: Called with each line of progress.

    Returns:
        The content of export.json.

    Raises:
        ExportError: an unknown format, a model that cannot be traced with a dynamic batch or written, a missing package
            or compiler, or a file whose outputs are not within TOLERANCE of the model's.
        ModelError: the model does not tell how it pools.
        OutputError: the folder exists, or cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"no format '{name}'; legal: {', '.join(FORMATS)}")
        FORMATS[name].require()
    preprocessing = preprocessing or resolve_preprocessing(loaded.model)
    network = network_to_export(loaded, layer, normalize=normalize).requires_grad_(False)
    check_new(folder)
    with atomic_path(folder, folder=True) as temporary:
        generator = torch.Generator().manual_seed(0)  # batches like preprocessed pixels: mean 0, deviation 1
        images = [torch.randn(count, *preprocessing.input_size, generator=generator) for count in _BATCHES]
        with torch.no_grad():
            expected = _expected(network, images, loaded.info.name)
        program = _trace(network, preprocessing.input_size, loaded.info.name)
        files = []
        for name in dict.fromkeys(formats):
            entry = _write(name, program, temporary, output_name(layer), images, expected)
            files.append(entry)
            log(_line(folder, entry))
        content = _document(loaded, preprocessing, layer, normalize, expected[0].shape[1], files)
        write_json(temporary / DOCUMENT, content)
    return content


def _expected(network: nn.Module, images: Sequence[Tensor], name: str) -> list[Tensor]:
    try:
        expected: list[Tensor] = [network(batch) for batch in images]
    except Exception as error:  # a network may refuse an input in its own way
        raise _cannot(name, f"it does not run at {' x '.join(map(str, images[0].shape[1:]))}", error) from error
    if not all(isinstance(out, Tensor) and out.ndim == 2 and bool(out.isfinite().all()) for out in expected):
        raise ExportError(f"'{name}' gives outputs that are not finite, or no vectors; take other weights")
    return expected


def _trace(network: nn.Module, size: tuple[int, int, int], name: str) -> ExportedProgram:
    try:
        example = torch.zeros(3, *size)
        return torch.export.export(
            fold_batch_norms(network), (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False
        )
    except Exception as error:  # torch.export raises many kinds
        raise _cannot(name, "torch.export cannot trace it with a dynamic batch", error) from error


def _write(
    name: str,
    program: ExportedProgram,
    folder: Path,
    output: str,
    images: Sequence[Tensor],
    expected: Sequence[Tensor],
) -> dict[str, Any]:
    """Write one format and hold it against the model; the file's entry in export.json."""
    form = FORMATS[name]
    file = folder / form.file
    try:
        facts = form.write(program, file, INPUT, output)
        run = form.load(file)
        absolute, relative = _deviation(run, images, expected)
    except (ExportError, OSError):
        raise
    except Exception as error:  # three exporters and two runtimes, each with errors of its own
        raise _cannot(form.file, f"the {name} exporter or its runtime refused the model", error) from error
    if not relative <= TOLERANCE:  # also where it is not a number
        raise ExportError(
            f"{form.file} deviates from the model by {relative:.1e} of the largest output value; "
            f"legal: at most {TOLERANCE}. Nothing was written; try another format"
        )
    beside = file.with_name(file.name + ".data")
    return {
        "format": name,
        "file": form.file,
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
        **({"data_file": beside.name, "data_sha256": file_sha256(beside)} if beside.exists() else {}),
        **facts,
        "deviation": {"absolute": absolute, "relative": relative, "batches": list(_BATCHES)},
    }


def _deviation(run: Run, images: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference from the model's outputs, and largest as a share of an image's largest output value."""
    absolute, relative = 0.0, 0.0
    with torch.no_grad():
        for batch, wanted in zip(images, expected, strict=True):
            got = run(batch)
            if got.shape != wanted.shape:
                raise ExportError(f"a batch of {len(batch)} gives {tuple(got.shape)}, not {tuple(wanted.shape)}")
            if not bool(got.isfinite().all()):
                return float("nan"), float("nan")
            difference = (got - wanted).abs().amax(1)
            absolute = max(absolute, difference.max().item())
            relative = max(relative, (difference / wanted.abs().amax(1).clamp_min(1e-30)).max().item())
    return absolute, relative


def _document(
    loaded: LoadedModel,
    preprocessing: Preprocessing,
    layer: Layer,
    normalize: bool,
    dim: int,
    files: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    info = loaded.info
    height, width = preprocessing.input_size[1:]
    resized = [int(side / preprocessing.crop_pct) for side in (height, width)]
    installed = versions()
    made, head = {}, None if loaded.head is None or layer == "logits" else read_head(loaded.head)
    if head is not None:  # what was done between the layer and the output
        facts = {"layers": head.layers, "loss": head.facts.loss, "trained_on": head.facts.trained_on}
        made = {"head": facts, "views": head.facts.views}
    return {
        "model": {"name": info.name, "architecture": info.architecture, "parameters": info.num_params},
        "weights": {"kind": info.weights.kind, "reference": info.weights.reference, "sha256": info.weights.sha256},
        "input": {
            "name": INPUT,
            "shape": ["batch", *preprocessing.input_size],
            "dtype": "float32",
            "layout": "NCHW",
            "colours": "RGB",
        },
        "output": {
            "name": output_name(layer),
            "shape": ["batch", dim],
            "dtype": "float32",
            "layer": layer if head is None else head.facts.layer,
            "unit_length": normalize or head is not None,
            **made,
        },
        "preprocessing": {
            **preprocessing.as_dict(),
            "resize": resized,
            "crop": [height, width],
            "value_range": [0.0, 1.0],
        },
        "files": list(files),
        "tolerance": TOLERANCE,
        "versions": {name: version for name, version in installed.items() if version is not None},
    }


def _line(folder: Path, entry: dict[str, Any]) -> str:
    deviation = entry["deviation"]
    opset = f", opset {entry['opset']}" if "opset" in entry else ""
    return (
        f"{folder / entry['file']}: {entry['bytes'] / 1e6:.1f} MB{opset}; deviates from the model by at most "
        f"{deviation['absolute']:.1e}, {deviation['relative']:.1e} of the largest output value"
    )


def check_new(folder: Path) -> None:
    """Fail before weights are pulled rather than after.

    Raises:
        OutputError: something is at `folder` already, be it an empty folder.
    """
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"'{folder}' exists already; name another --output, or remove it")


def _cannot(name: str, what: str, error: Exception) -> ExportError:
    return ExportError(f"'{name}' cannot be exported: {what}: {one_line(error)}")
