"""What a run shows while it works: a progress bar on a terminal, and one line per epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from timm_gam.core import peak_memory_mb, progress_bar
from timm_gam.train.output.checkpoint import Position
from timm_gam.train.recipe import Recipe


@dataclass(frozen=True)
class Progress:
    """Progress of a run that has begun at `first_epoch`; `log` takes the lines for the reader."""

    recipe: Recipe
    first_epoch: int
    start_time: float
    advance: Callable[..., None]
    log: Callable[[str], None]

    def update(self, loss: float, device: torch.device) -> None:
        """One update is done."""
        images = self.recipe.batch_size * self.recipe.accumulate
        self.advance(images, f"loss {loss:.4f}, {peak_memory_mb(device):.0f} MB")

    def epoch(self, row: Mapping[str, float]) -> None:
        """One epoch is done; `row` is its row of metrics.csv."""
        epoch = int(row["epoch"])
        parts = [f"epoch {epoch}/{self.recipe.epochs}", f"loss {row['train_loss']:.4f}"]
        if "val_map" in row:
            parts += [f"val mAP {100 * row['val_map']:.2f}", f"hit@1 {100 * row['val_hit@1']:.2f}"]
        spent = (time.monotonic() - self.start_time) / (epoch - self.first_epoch)
        left = round(spent * (self.recipe.epochs - epoch))
        parts += [f"{row['images_per_second']:.0f} img/s", f"{row['memory_mb']:.0f} MB"]
        parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        self.log("  ".join(parts))


@contextmanager
def show_progress(
    recipe: Recipe, position: Position, updates_per_epoch: int, *, show: bool, log: Callable[[str], None]
) -> Iterator[Progress]:
    """Show a run's progress from `position` on, in the first process alone."""
    images = recipe.batch_size * recipe.accumulate
    done = (position.epoch * updates_per_epoch + position.update) * images
    with progress_bar(
        "training", "img", recipe.epochs * updates_per_epoch * images, initial=done, show=show
    ) as advance:
        yield Progress(recipe, position.epoch, time.monotonic(), advance, log if show else lambda line: None)
