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

_FORMAT = "timm-gam/training-state/1"


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
    record: Mapping[str, Any],
) -> None:
    """Write the state of a run, and the record of its training as the weights have it.

    Raises:
        OutputError: it cannot be written; what was there before stays.
    """
    tensors = {f"{name}.{key}": t for name, module in modules.items() for key, t in module.state_dict().items()}
    values: dict[str, dict[str, Any]] = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                values.setdefault(str(index), {})[key] = value
    plain = {
        "format": _FORMAT,
        "position": asdict(position),
        "optimizer": values,
        "scaler": scaler.state_dict(),
        **record,
    }
    save_tensors(path, tensors, plain)


def load_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Position:
    """Put the state of a run back into the objects it was saved from, made anew by the same recipe.

    Raises:
        RunFolderError: no such file, a damaged one, or one of another run.
    """
    if not path.exists():
        raise RunFolderError(f"no '{path}' to resume from; start the run without --resume")
    plain = read_about(path)
    try:
        tensors = load_file(path)
        if plain["format"] != _FORMAT:
            raise ValueError(f"its format is {plain['format']}, not {_FORMAT}")
        for name, module in modules.items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        slots: dict[int, dict[str, Any]] = {int(index): dict(kept) for index, kept in plain["optimizer"].items()}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                slots.setdefault(int(index), {})[key] = tensor
        # Groups are the recipe's own; of timm's schedulers they depend on nothing but the number of updates.
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        if scaler.is_enabled():
            scaler.load_state_dict(plain["scaler"])
        return Position(**plain["position"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _not_of_this_run(path, error) from error


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


def _not_of_this_run(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"'{path}' is not the state of this run: {one_line(error)}; start anew in another folder")
