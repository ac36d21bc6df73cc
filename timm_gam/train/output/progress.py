"""What a run shows while it works: a progress bar on a terminal, and one line per epoch everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm

from timm_gam.core import peak_memory_mb
from timm_gam.train.output.checkpoint import Position
from timm_gam.train.recipe import Recipe


class Progress:
    """Progress of a run from `position` on; `log` takes the line of each epoch. Only the first process shows it."""

    def __init__(
        self, recipe: Recipe, position: Position, updates_per_epoch: int, *, show: bool, log: Callable[[str], None]
    ) -> None:
        self._recipe, self._show, self._log = recipe, show, log
        self._images = recipe.batch_size * recipe.accumulate
        self._start_time, self._first_epoch = time.monotonic(), position.epoch
        self._bar = tqdm(
            total=recipe.epochs * updates_per_epoch * self._images,
            initial=(position.epoch * updates_per_epoch + position.update) * self._images,
            unit="img",
            unit_scale=True,
            leave=False,
            file=sys.stderr,
            disable=None if show else True,
        )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def log(self, line: str) -> None:
        """A line for the reader, above the bar."""
        if self._show:
            with tqdm.external_write_mode(file=sys.stderr):
                self._log(line)

    def update(self, loss: float, device: torch.device) -> None:
        """One update is done."""
        self._bar.set_postfix_str(f"loss {loss:.4f}, {peak_memory_mb(device):.0f} MB", refresh=False)
        self._bar.update(self._images)

    def epoch(self, row: Mapping[str, float]) -> None:
        """One epoch is done; `row` is its row of metrics.csv."""
        epoch = int(row["epoch"])
        parts = [f"epoch {epoch}/{self._recipe.epochs}", f"loss {row['train_loss']:.4f}"]
        if "val_map" in row:
            parts += [f"val mAP {100 * row['val_map']:.2f}", f"hit@1 {100 * row['val_hit@1']:.2f}"]
        spent = (time.monotonic() - self._start_time) / (epoch - self._first_epoch)
        left = round(spent * (self._recipe.epochs - epoch))
        parts += [f"{row['images_per_second']:.0f} img/s", f"{row['memory_mb']:.0f} MB"]
        parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        self.log("  ".join(parts))
