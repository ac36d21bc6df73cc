"""Errors of the evaluation. The command line turns each into one line on stderr and exit code 2.

EvalError
 |-- DataError              the image set cannot be read or used as asked
 |    |-- UnreadableImageError   one image cannot be decoded; carries its id
 |-- ModelError             the model or its weights cannot be had or do not fit
 |-- EmbeddingError         a model gave embeddings that cannot be scored
 |-- MachineError           memory ran out, or a loader process was killed
 |-- OutputError            a result cannot be written
 |-- PeerError              another process of the same run ended
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "EmbeddingError",
    "EvalError",
    "MachineError",
    "ModelError",
    "OutputError",
    "PeerError",
    "UnreadableImageError",
]


class EvalError(Exception):
    """Base class: what was received, what is legal, what to do next, in one line."""


class DataError(EvalError):
    """The image set cannot be read or used as asked."""


class UnreadableImageError(DataError):
    """One image cannot be decoded."""

    def __init__(self, image_id: str, reason: str) -> None:
        self.image_id = image_id
        self.reason = reason
        super().__init__(image_id, reason)

    def __str__(self) -> str:
        return f"cannot read image '{self.image_id}': {self.reason}"


class ModelError(EvalError):
    """The model or its weights cannot be had, or do not fit each other."""


class EmbeddingError(EvalError):
    """A model gave embeddings that cannot be scored (not finite, wrong shape)."""


class MachineError(EvalError):
    """Memory ran out, or a loader process was killed."""


class OutputError(EvalError):
    """A result cannot be written where it was asked for."""


class PeerError(EvalError):
    """Another process of the same run ended. The message is empty where that one says why."""
