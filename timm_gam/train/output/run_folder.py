"""The run folder: all that a run leaves, under fixed names. Each file is written whole or not at all.

config.yaml          the effective recipe; --config reads it
environment.json     versions, hardware, start weights
data.json            name, fingerprint, classes and split of the images
metrics.csv          one row per epoch
curves.png           loss and retrieval over epochs, where matplotlib is installed
best.safetensors     weights of the epoch with the best validation mAP, float32, with classifier; its metadata keeps how
                     images are prepared for them, and 8 bytes of the SHA-256 of each that they were trained on
last.safetensors     the same of the last epoch that was saved; in the end, of the last one
state.safetensors    all that --resume needs
evaluation.json      retrieval on the test split, in the format of python -m eval.retrieval
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_gam.core import OutputError, RunFolderError, hold_folder, read_json, write_text

COLUMNS = (
    "epoch", "lr", "train_loss", "val_map", "val_hit@1", "val_hit@10", "val_precision@10", "images_per_second",
    "seconds", "memory_mb",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    config = property(lambda self: self.path / "config.yaml")
    environment = property(lambda self: self.path / "environment.json")
    data = property(lambda self: self.path / "data.json")
    metrics = property(lambda self: self.path / "metrics.csv")
    curves = property(lambda self: self.path / "curves.png")
    best = property(lambda self: self.path / "best.safetensors")
    last = property(lambda self: self.path / "last.safetensors")
    state = property(lambda self: self.path / "state.safetensors")
    evaluation = property(lambda self: self.path / "evaluation.json")

    def refuse_run(self) -> None:
        """Raise RunFolderError where it holds a run already, or what a run left."""
        if self.state.exists():
            raise RunFolderError(
                f"'{self.path}' holds a run already; continue it with --resume {self.path}, or name another"
            )
        for left in (self.last, self.evaluation):
            if left.exists():
                raise RunFolderError(
                    f"'{self.path}' holds {left.name} of a run without its {self.state.name}; name another"
                )

    @contextmanager
    def started(self) -> Iterator[None]:
        """Make the folder for a new run, and hold it within.

        Raises:
            OutputError: it cannot be made, or another process holds it.
            RunFolderError: it holds a run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the run folder '{self.path}': {error.strerror}; name another") from error
        with hold_folder(self.path):
            self.refuse_run()
            self.best.unlink(missing_ok=True)  # of a run that was killed before its first state
            yield

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read one of the JSON files, or raise RunFolderError where it is missing or damaged."""
        return read_json(path, dict[str, Any], RunFolderError, f"'{self.path}' is no run folder")

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write metrics.csv: COLUMNS, empty where an epoch was not validated."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics, text.getvalue())
