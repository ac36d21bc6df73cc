"""A result in one safetensors file: arrays as tensors, everything else as JSON. No pickle; nothing read is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eval.results.document import AverageRecord
from eval.results.facts import Facts
from eval.results.record import average_record
from eval.results.result import RetrievalResult
from eval.scoring.statistics.influence import Influence
from eval.scoring.statistics.intervals import Average
from timm_gam.core import DataError, atomic_path

_FORMAT = "timm-gam/result/1"
_METRIC, _INFLUENCE, _EFFECT = "metric/", "influence/", "effect/"
_TEXTS = ("ids", "class_names", "facts", "averages")


def save_result(result: RetrievalResult, path: Path) -> None:
    """As `RetrievalResult.save`."""
    texts = {
        "ids": list(result.ids),
        "class_names": list(result.class_names),
        "facts": result.facts.model_dump(mode="json", by_alias=True),
        "averages": {name: average_record(a).model_dump(mode="json") for name, a in result.averages.items()},
    }
    tensors: dict[str, NDArray[Any]] = {
        name: np.frombuffer(json.dumps(text, allow_nan=False).encode(), dtype=np.uint8) for name, text in texts.items()
    }
    tensors |= {name: np.ascontiguousarray(getattr(result, name)) for name in _ARRAYS}
    tensors |= {f"{_METRIC}{name}": values for name, values in result.per_query.items()}
    if result.influence is not None:
        tensors |= {f"{_INFLUENCE}{name}": getattr(result.influence, name) for name in _IMAGES}
        tensors |= {f"{_EFFECT}{name}": np.ascontiguousarray(v) for name, v in result.influence.effects.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT})


_ARRAYS: dict[str, tuple[type[np.generic], str]] = {
    "labels": (np.int64, "N"),
    "query": (np.int64, "Q"),
    "gallery": (np.int64, "G"),
    "neighbours": (np.int64, "QK"),
    "scores": (np.float32, "QK"),
}
"""Name -> dtype and shape, a letter a dimension, as `RetrievalResult` has it."""
_IMAGES = ("image", "label", "own", "class_size")  # (M,) int64 each, of `Influence`


def load_result(path: Path) -> RetrievalResult:
    """As `RetrievalResult.load`."""
    tensors = _read(path)
    try:
        texts = {name: tensors[name].tobytes() for name in _TEXTS}
        ids = tuple(TypeAdapter(list[str]).validate_json(texts["ids"]))
        class_names = tuple(TypeAdapter(list[str]).validate_json(texts["class_names"]))
        facts = Facts.model_validate_json(texts["facts"])
        averages = TypeAdapter(dict[str, AverageRecord]).validate_json(texts["averages"])
        arrays: dict[str, Any] = {name: tensors[name] for name in _ARRAYS}
    except (KeyError, ValidationError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error.errors()[0]["msg"]
        raise _refuse(path, reason) from error
    if wrong := _find_fault(tensors, list(averages), len(ids), len(class_names)):
        raise _refuse(path, wrong)
    influence = None
    if _INFLUENCE + "image" in tensors:
        of_images: dict[str, Any] = {name: tensors[_INFLUENCE + name] for name in _IMAGES}
        effects = {name: tensors[_EFFECT + name] for name in averages}
        influence = Influence(**of_images, gallery=len(arrays["gallery"]), effects=effects)
    return RetrievalResult(
        ids=ids,
        class_names=class_names,
        **arrays,
        per_query={name: tensors[_METRIC + name] for name in averages},
        averages={name: Average(a.micro, a.macro, a.micro_ci95, a.macro_ci95) for name, a in averages.items()},
        facts=facts,
        influence=influence,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; name one that RetrievalResult.save or --save wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise _refuse(path, f"its format is not {_FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise _refuse(path, str(error)) from error


def _find_fault(tensors: dict[str, NDArray[Any]], metrics: list[str], images: int, classes: int) -> str | None:
    """What is wrong with tensors from elsewhere, or None."""
    expected = _ARRAYS | {_METRIC + name: (np.float64, "Q") for name in metrics}
    if _INFLUENCE + "image" in tensors:
        expected |= {_INFLUENCE + name: (np.int64, "M") for name in _IMAGES}
        expected |= {_EFFECT + name: (np.float64, "22M") for name in metrics}
    sizes = {"N": images, "2": 2}
    for name, (dtype, letters) in expected.items():
        tensor = tensors.get(name, np.empty(0))
        fits = tensor.dtype == dtype and tensor.ndim == len(letters) and tensor.size > 0
        if not fits or any(sizes.setdefault(*pair) != pair[1] for pair in zip(letters, tensor.shape, strict=True)):
            return f"{name} is {tensor.dtype} of shape {tensor.shape}, or missing"
    limits = {"labels": (0, classes - 1), **dict.fromkeys(("query", "gallery", "neighbours"), (0, images - 1))}
    limits |= {f"{_INFLUENCE}image": (0, sizes["G"] - 1), f"{_INFLUENCE}own": (-1, sizes["Q"] - 1)}
    limits |= {f"{_INFLUENCE}class_size": (1, sizes["G"])}
    for name, (low, high) in limits.items():
        if name in expected and not low <= tensors[name].min() <= tensors[name].max() <= high:
            return f"{name} points outside of {low} to {high}"
    if not all(np.isfinite(tensors[name]).all() for name in expected if not name.startswith(_METRIC)):
        return "scores or effects are not finite"
    if not metrics or {_METRIC + name for name in metrics} != {name for name in tensors if name.startswith(_METRIC)}:
        return "metrics of queries and their averages differ"
    for name in metrics:
        values = tensors[_METRIC + name]
        if not np.all(np.isnan(values) | ((values >= 0) & (values <= 1))):
            return f"{name} is not one number in [0, 1] per query"
    return None


def _refuse(path: Path, reason: str) -> DataError:
    return DataError(f"'{path}' is no saved result: {reason}; write one with RetrievalResult.save or --save")
