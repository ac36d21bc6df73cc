"""Errors of the model zoo.

    TimmGamError
     |-- UnknownModelError   no such model or tag
     |-- CheckpointError     weights lack tensors, have others' shapes, or cannot be read
     |-- HubError            the Hub does not give what was asked of it
     |-- ExportError         a model cannot be exported, or its export disagrees with it

All are RuntimeErrors, which is what timm raises in the same places.
"""

from __future__ import annotations

__all__ = ["CheckpointError", "ExportError", "HubError", "TimmGamError", "UnknownModelError"]


class TimmGamError(RuntimeError):
    """Base class: what was received, what is legal, what to do next, in one line."""


class UnknownModelError(TimmGamError):
    """No such model or tag."""


class CheckpointError(TimmGamError):
    """Weights lack tensors of the model, have others' shapes, or cannot be read."""


class HubError(TimmGamError):
    """The Hub does not give what was asked of it: missing, private, unreachable."""


class ExportError(TimmGamError):
    """A model cannot be exported as asked, or what was written disagrees with it."""
