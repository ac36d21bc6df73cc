"""The small file that stays of a run: written when it is whole, and believed only where it is of the run asked for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.transfer.setting import Run, Setting, recipe_of_run
from timm_gam.core import RunFolderError, read_json, write_text
from timm_gam.train import COMPUTE_KEYS

SCHEMA = "timm-gam/transfer-run/1"
_DIGITS = 4  # of a query's metrics: a hundredth of a point


def record_path(setting: Setting, run: Run) -> Path:
    """Where the record of a run is or will be."""
    return setting.output / "records" / f"{run.name}.json"


def about(setting: Setting, run: Run) -> dict[str, Any]:
    """What a record says of its run before it trains."""
    return {
        "schema": SCHEMA,
        "name": run.name,
        "kind": run.kind,
        "arm": run.arm.name,
        "seed": run.seed,
        "lr": run.lr,
        "recipe": {k: v for k, v in asdict(recipe_of_run(setting, run)).items() if k not in ("data_dir", "start")},
        "start": None if run.kind == "pretrain" else f"pretrain-{run.arm.backbone}-{run.start_seed}",
        "resident": setting.resident,
    }


def read_record(setting: Setting, run: Run) -> dict[str, Any] | None:
    """The record of a finished run, else None.

    Raises:
        RecipeError: the run's own recipe is illegal.
        RunFolderError: the record is damaged, or of a run by another recipe.
    """
    wanted, path = about(setting, run), record_path(setting, run)
    if not path.exists():
        return None
    record = _read_complete(path, run)
    found, recipe = json.loads(_as_json(record)), json.loads(_as_json(wanted))["recipe"]
    if found.get("resident", False) != setting.resident:
        kinds = ["over images from files", "over --resident images"]
        other, mine = kinds[not setting.resident], kinds[setting.resident]
        raise RunFolderError(f"'{path}' is of a run {other}, not {mine}: {_NEXT}")
    for key, value in recipe.items():
        if key not in COMPUTE_KEYS and found["recipe"].get(key, value) != value:
            raise RunFolderError(f"'{path}' is of a run with {key} = {found['recipe'][key]!r}, not {value!r}: {_NEXT}")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all; a query's metrics to a hundredth of a point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _as_json(record))


_NEXT = "name another --output, or give the same options"


def _read_complete(path: Path, run: Run) -> dict[str, Any]:
    remedy = "remove it, and the same command makes it again"
    record = read_json(path, dict[str, Any], RunFolderError, remedy)
    needed = {"recipe", "val_map"} | ({"test"} if run.kind == "final" and "diverged" not in record else set())
    if record.get("schema") != SCHEMA or record.get("name") != run.name or not needed <= record.keys():
        raise RunFolderError(f"'{path}' is no record of the run {run.name}; {remedy}")
    return record


def _as_json(record: dict[str, Any]) -> str:
    """One line per key: per-query values stay short and diffs readable."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [int(v) if v in (0, 1) else round(v, _DIGITS) for v in value.tolist()]
        if isinstance(value, float):
            return round(value, 7)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    lines = [f" {json.dumps(key)}: {json.dumps(plain(value))}" for key, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
