"""Errors of training, below the model zoo's. The command line turns each into one line and exit code 2.

TimmGamError
 |-- TrainError
      |-- RecipeError      an option or a key of the YAML file is unknown or has an illegal value
      |-- RunFolderError   a run folder cannot be started, resumed or read
      |-- DivergedError    the loss is no longer finite
"""

from __future__ import annotations

from timm_gam.errors import TimmGamError

__all__ = ["DivergedError", "RecipeError", "RunFolderError", "TrainError"]


class TrainError(TimmGamError):
    """Base class of what training refuses or stops at."""


class RecipeError(TrainError):
    """An option, or a key of the YAML file, is unknown or has an illegal value."""


class RunFolderError(TrainError):
    """A run folder cannot be started, resumed or read."""


class DivergedError(TrainError):
    """The loss is no longer finite."""
