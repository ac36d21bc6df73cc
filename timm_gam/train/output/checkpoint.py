"""Everything a run needs to go on, as one safetensors file: tensors, and the rest as JSON in its metadata.

One file, so that a process killed at any moment leaves either the old state or the new one, never half of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from timm_gam.core import RunFolderError, one_line
from timm_gam.models import METADATA_KEY, save_tensors
from timm_gam.train.recipe import COMPUTE_KEYS, DATA_KEYS, Recipe

_FORMAT = "timm-gam/training-state/2"
_TENSOR = "tensor"


@dataclass
class Position:
    """How far a run is. All of it is plain data.

    Attributes:
        epoch: Whole epochs done; the next one is `epoch`, counted from 0.
        update: Updates done in that next epoch.
        loss_sum: Sum of the mean losses of those updates.
        seconds: Spent on those updates.
        rows: One row of metrics.csv per epoch done.
        best_epoch: Of the kept weights, counted from 1; 0 where no epoch was validated yet.
        best_map: Its validation mAP.
    """

    epoch: int = 0
    update: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_map: float = -1.0


def save_state(
    path: Path,
    position: Position,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: Recipe,
    record: Mapping[str, Any],
) -> None:
    """Write the state of a run, and the record of its training as the weights have it.

    Raises:
        OutputError: it cannot be written; what was there before stays.
    """
    tensors = {f"{name}.{key}": t for name, module in modules.items() for key, t in module.state_dict().items()}
    plain = {
        "format": _FORMAT,
        "position": asdict(position),
        "recipe": _decisive(recipe),
        "optimizer": _without_tensors(optimizer.state_dict(), "optimizer", tensors),
        "scaler": scaler.state_dict(),
        **record,
    }
    save_tensors(path, tensors, plain)


def load_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Position:
    """Put the state of a run back into the objects it was saved from, made anew by the same recipe.

    Raises:
        RunFolderError: a damaged file, or one of another run.
    """
    plain = read_about(path)
    try:
        tensors = load_file(path)
        if plain["format"] != _FORMAT:
            raise ValueError(f"its format is {plain['format']}, not {_FORMAT}")
        for name, module in modules.items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        # Groups too: timm's Adan and LAMB count their steps there.
        optimizer.load_state_dict(_with_tensors(plain["optimizer"], tensors))
        if scaler.is_enabled():
            scaler.load_state_dict(plain["scaler"])
        return Position(**plain["position"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _not_of_this_run(path, error) from error


def refuse_other_recipe(path: Path, recipe: Recipe) -> None:
    """Make sure that a run goes on by the recipe it was trained by: its records name one.

    Raises:
        RunFolderError: it is another, or there is no state to read it from.
    """
    if not path.exists():
        raise RunFolderError(f"no '{path}' to resume from; start the run without --resume")
    trained_by = read_about(path).get("recipe", {})
    for key, value in _decisive(recipe).items():
        if key in trained_by and trained_by[key] != value:
            raise RunFolderError(
                f"'{path.parent}' was trained with {key} = {trained_by[key]!r}, not {value!r}: put it back into "
                "config.yaml, or start anew in another folder"
            )


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """What decides the weights, as JSON has it; the images are known by their fingerprint."""
    free = {*COMPUTE_KEYS, *DATA_KEYS, "save_every"} - {"val_share"}
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return {key: value for key, value in values.items() if key not in free}


def read_about(path: Path) -> dict[str, Any]:
    """What `save_tensors` was told about a file.

    Raises:
        RunFolderError: it is damaged or another's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[METADATA_KEY])
            return about
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise _not_of_this_run(path, error) from error


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Dicts, lists, tuples and tensors in each other as JSON; the tensors go into `tensors`, by their place."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        return [[key, _without_tensors(kept, f"{name}.{key}", tensors)] for key, kept in value.items()]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_without_tensors(kept, f"{name}.{place}", tensors) for place, kept in enumerate(value)]}
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_without_tensors` took apart."""
    if isinstance(value, list):
        return {key: _with_tensors(kept, tensors) for key, kept in value}
    if isinstance(value, dict):
        ((kind, kept),) = value.items()
        if kind == _TENSOR:
            return tensors[kept]
        return (list if kind == "list" else tuple)(_with_tensors(part, tensors) for part in kept)
    return value


def _not_of_this_run(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"'{path}' is not the state of this run: {one_line(error)}; start anew in another folder")
