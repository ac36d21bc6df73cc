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
_IMAGES = ("image", "label", "own", "class_size")  # of `Influence`
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


_ARRAYS: dict[str, tuple[type[np.generic], int]] = {
    "labels": (np.int64, 1),
    "query": (np.int64, 1),
    "gallery": (np.int64, 1),
    "neighbours": (np.int64, 2),
    "scores": (np.float32, 2),
}
"""Name -> dtype and number of dimensions."""


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
    per_query = {name.removeprefix(_METRIC): t for name, t in tensors.items() if name.startswith(_METRIC)}
    influence = _influence(tensors, arrays["gallery"], per_query)
    wrong = _find_fault(arrays, per_query, set(averages), len(ids), len(class_names))
    if wrong:
        raise _refuse(path, wrong)
    return RetrievalResult(
        ids=ids,
        class_names=class_names,
        **arrays,
        per_query={name: per_query[name] for name in averages},
        averages={name: Average(a.micro, a.macro, a.micro_ci95, a.macro_ci95) for name, a in averages.items()},
        facts=facts,
        influence=influence,
    )


def _influence(
    tensors: dict[str, NDArray[Any]], gallery: NDArray[np.int64], per_query: dict[str, NDArray[Any]]
) -> Influence | None:
    """What is kept of it, where it fits the rest; else intervals of comparisons are over queries."""
    images = [tensors.get(f"{_INFLUENCE}{name}") for name in _IMAGES]
    effects = {name: tensors.get(f"{_EFFECT}{name}") for name in per_query}
    first = images[0]
    if first is None or not len(gallery):
        return None
    queries = len(next(iter(per_query.values()))) if per_query else 0
    known = [one for one in images if one is not None and one.dtype == np.int64 and one.shape == (len(first),)]
    fitting = {
        name: values
        for name, values in effects.items()
        if values is not None and values.dtype == np.float64 and values.shape == (2, 2, len(first))
    }
    if len(known) < len(_IMAGES) or len(fitting) < len(effects) or not len(first):
        return None
    image, label, own, class_size = known
    inside = image.min() >= 0 and image.max() < len(gallery) and own.max() < queries and class_size.min() > 0
    if not inside or not all(np.isfinite(values).all() for values in fitting.values()):
        return None
    return Influence(image, label, own, class_size, len(gallery), fitting)


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


def _find_fault(
    arrays: dict[str, NDArray[Any]], per_query: dict[str, NDArray[Any]], metrics: set[str], images: int, classes: int
) -> str | None:
    """What is wrong with arrays from elsewhere, or None."""
    for name, (dtype, dims) in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != dims:
            return f"{name} is {arrays[name].dtype} with {arrays[name].ndim} dimensions"
    queries = len(arrays["query"])
    if arrays["neighbours"].shape != arrays["scores"].shape or len(arrays["neighbours"]) != queries or not queries:
        return "neighbours and scores are not one row per query"
    if arrays["neighbours"].shape[1] < 1 or len(arrays["labels"]) != images:
        return "labels or neighbours are missing"
    for name, limit in (("labels", classes), ("query", images), ("gallery", images), ("neighbours", images)):
        if arrays[name].size == 0 or arrays[name].min() < 0 or arrays[name].max() >= limit:
            return f"{name} points outside of 0 to {limit - 1}"
    if not np.isfinite(arrays["scores"]).all():
        return "scores are not finite"
    if not metrics or set(per_query) != metrics:
        return "metrics of queries and their averages differ"
    for name, values in per_query.items():
        inside = np.isnan(values) | ((values >= 0) & (values <= 1)) if values.dtype == np.float64 else np.False_
        if values.shape != (queries,) or not np.all(inside):
            return f"{name} is not one number in [0, 1] per query"
    return None


def _refuse(path: Path, reason: str) -> DataError:
    return DataError(f"'{path}' is no saved result: {reason}; write one with RetrievalResult.save or --save")
