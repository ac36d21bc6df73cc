"""One process a model, so that a model that dies of memory takes nothing with it; finished models are kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.results.result import RetrievalResult
from timm_gam.core import DataError, OutputError, available_memory, write_text

_BYTES_PER_PARAMETER = 12
"""What a network takes while it is loaded: its weights, the file they come from, and room to run it."""


@dataclass(frozen=True)
class Run:
    """What became of one model: a result, or the reason why there is none."""

    model: str
    result: RetrievalResult | None
    reason: str = ""


def run_models(
    models: Sequence[str], options: Sequence[str], folder: Path, *, on_run: Callable[[Run], None] = lambda run: None
) -> list[Run]:
    """Score models with `python -m eval.retrieval`, each in a process of its own; those that are finished are kept.

    Args:
        models: Names.
        options: Of `python -m eval.retrieval`, the same for all.
        folder: Holds MODEL.safetensors for each finished model.
        on_run: Called after each model.

    Raises:
        OutputError: the folder holds models scored with other options, or cannot be written.
    """
    _same_options(folder, options)
    runs = []
    for model in models:
        runs.append(_run(model, options, folder))
        on_run(runs[-1])
    return runs


def _same_options(folder: Path, options: Sequence[str]) -> None:
    kept = folder / "options.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != list(options):
            raise OutputError(f"'{folder}' holds models scored with other options; name another --output")
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot use '{folder}': {error}; name another --output") from error
    write_text(kept, json.dumps(list(options)))


def _run(model: str, options: Sequence[str], folder: Path) -> Run:
    path = folder / f"{_file_name(model)}.safetensors"
    if path.exists():
        try:
            return Run(model, RetrievalResult.load(path))
        except DataError:
            path.unlink()  # damaged: scored anew
    if (reason := _too_large(model)) is not None:
        return Run(model, None, reason)
    command = [sys.executable, "-m", "timm_gam", "score", "--model", model, *options, "--save", str(path)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode in (130, 143):
        raise KeyboardInterrupt
    if done.returncode < 0:
        return Run(model, None, f"killed by signal {-done.returncode}, as happens when memory runs out")
    if done.returncode or not path.exists():
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return Run(model, None, errors[-1].removeprefix("error: ") if errors else f"exit code {done.returncode}")
    return Run(model, RetrievalResult.load(path))


def _too_large(model: str) -> str | None:
    """Why a registered model cannot be held in memory, None where it can or nobody knows."""
    import timm
    from timm.models import is_model

    architecture = model.partition(".")[0]
    memory = available_memory()
    if memory is None or not is_model(architecture):
        return None
    shapes = timm.create_model(architecture, device="meta")
    parameters = sum(parameter.numel() for parameter in shapes.parameters())
    if parameters * _BYTES_PER_PARAMETER <= memory:
        return None
    return (
        f"{parameters / 1e6:.0f} M parameters need about {parameters * _BYTES_PER_PARAMETER / 2**30:.1f} GiB and "
        f"{memory / 2**30:.1f} are free"
    )


def _file_name(model: str) -> str:
    """A model's name as a file name; names with a slash or a colon get a digest, so that no two meet."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in model)
    return plain if plain == model else f"{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
