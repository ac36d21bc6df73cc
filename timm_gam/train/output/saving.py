"""When a run is saved: at its end, when it is asked to end, after some minutes, and for a new best epoch.

Where the network is large and the images few, writing a checkpoint takes as long as an epoch: the 2.4 GB of a GAM
ResNet50 took 3 s beside a GPU and 21 s on a busy disk. So nothing is written for its time, and a new best epoch waits
in memory, until the last write is twenty times as long ago as it took.
"""

from __future__ import annotations

import time

from torch import Tensor

from timm_gam.core import RunFolderError
from timm_gam.models import TrainingRecord, save_tensors
from timm_gam.train.loop import Trainer
from timm_gam.train.output.checkpoint import Position, read_about, save_state
from timm_gam.train.output.run_folder import RunFolder
from timm_gam.train.validation import SELECTION_METRIC

SECONDS = 300.0
"""The most work that a process killed without notice loses, where a write takes under a twentieth of it."""

_SHARE = 0.05  # of the time, at most, for writing


class Saver:
    """Writes the state of a run and the weights made from it; does nothing in other processes than the first."""

    def __init__(self, folder: RunFolder, trainer: Trainer, position: Position, record: TrainingRecord) -> None:
        self._folder, self._trainer, self._position, self._record = folder, trainer, position, record.as_plain()
        self._best: dict[str, Tensor] | None = None
        self._written, self._cost = time.monotonic(), 0.0

    def resumed(self) -> None:
        """Make the folder agree with the state that was read. Best weights may be those of a later epoch than it: they
        were written before a state that was not.

        Raises:
            RunFolderError: the best weights that the state speaks of are gone, or damaged.
        """
        if not self._trainer.world.leads:
            return
        if self._folder.best.exists():
            best = read_about(self._folder.best)
            if best[_SCORE] > self._position.best_map:
                self._position.best_epoch, self._position.best_map = best["epoch"], best[_SCORE]
        elif self._position.best_epoch:
            raise RunFolderError(
                f"no '{self._folder.best}', the weights of epoch {self._position.best_epoch}, the best so far: put it "
                "back, or start anew in another folder"
            )
        self._write_last()

    def keep_best(self) -> None:
        """Take this epoch's weights as the best so far."""
        if self._trainer.world.leads:
            weights = self._trainer.kept_model.state_dict()
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    def is_due(self) -> bool:
        """Whether to save now, after an update."""
        if not self._trainer.world.leads:
            return False
        every, elapsed = self._trainer.recipe.save_every, time.monotonic() - self._written
        if every and self._position.update % every == 0:
            return True
        return self._cost < _SHARE * elapsed and (elapsed > SECONDS or self._best is not None)

    def end_epoch(self) -> None:
        """Save where it is due, and bring metrics.csv up to date in any case."""
        if self._position.epoch == self._trainer.recipe.epochs or self.is_due():
            self.save()
        elif self._trainer.world.leads:
            self._folder.write_metrics(self._position.rows)

    def save(self) -> None:
        """Write the best weights if they are new, the state, and between epochs the last weights."""
        if not self._trainer.world.leads:
            return
        began, trainer, position = time.monotonic(), self._trainer, self._position
        if self._best is not None:
            about = {
                "model": trainer.recipe.model,
                "epoch": position.best_epoch,
                _SCORE: position.best_map,
                **self._record,
            }
            save_tensors(self._folder.best, self._best, about)
            self._best = None
        save_state(
            self._folder.state,
            position,
            trainer.modules,
            trainer.optimizer,
            trainer.scaler,
            trainer.recipe,
            self._record,
        )
        self._write_last()
        self._written = time.monotonic()
        self._cost = self._written - began

    def _write_last(self) -> None:
        self._folder.write_metrics(self._position.rows)
        if not self._position.update:  # else those of the last whole epoch stay
            about = {"model": self._trainer.recipe.model, "epoch": self._position.epoch, **self._record}
            save_tensors(self._folder.last, self._trainer.kept_model.state_dict(), about)


_SCORE = f"val_{SELECTION_METRIC}"
