"""Errors of the model zoo.

    TimmGamError
     |-- CheckpointError    weights lack tensors, have others' shapes, or cannot be read

Both are RuntimeErrors, which is what timm raises in the same places.
"""

from __future__ import annotations

__all__ = ["CheckpointError", "TimmGamError"]


class TimmGamError(RuntimeError):
    """Base class: what was received, what is legal, what to do next, in one line."""


class CheckpointError(TimmGamError):
    """Weights lack tensors of the model, have others' shapes, or cannot be read."""
