"""Every error of the project. A command line turns each into one line on stderr and exit code 2 (`timm_gam.core.cli`).

TimmGamError                  what was received, what is legal, what to do next, in one line
 |-- DataError                an image set cannot be read or used as asked
 |    |-- UnreadableImageError     one image cannot be decoded; carries its id
 |-- ModelError               a model or its weights cannot be had, or do not fit; a RuntimeError, as timm's own
 |    |-- UnknownModelError        no such model or tag
 |    |-- CheckpointError          weights lack tensors, have others' shapes, or cannot be read
 |-- HubError                 the Hub does not give what was asked of it; a RuntimeError too
 |-- EmbeddingError           a model gave embeddings that cannot be scored
 |-- ExportError              a model cannot be exported, or its export disagrees with it
 |-- OutputError              a result cannot be written
 |-- MachineError             memory ran out, a device cannot be used, or a loader process was killed
 |    |-- PeerError                another process of the same run ended
 |-- TrainError               training is refused, or stops
 |    |-- RecipeError              an option or a key of the YAML file is unknown or has an illegal value
 |    |-- RunFolderError           a run folder cannot be started, resumed or read
 |    |-- DivergedError            the loss is no longer finite
 |-- PublishError             publishing is refused, or fails
      |-- RefusedError             what came must not be published as it is; nothing was sent
      |-- ConflictError            the Hub's state does not allow it: a lost race, a tag that would move
      |-- UploadError              the Hub did not take it, or gave back something else
"""

from __future__ import annotations

from timm_gam.core.text import message_text


class TimmGamError(Exception):
    """Base class: what was received, what is legal, what to do next, in one printable line without secrets."""

    def __str__(self) -> str:
        return message_text(self._message())

    def _message(self) -> str:
        return super().__str__()


class DataError(TimmGamError):
    """An image set cannot be read or used as asked."""


class UnreadableImageError(DataError):
    """One image cannot be decoded."""

    def __init__(self, image_id: str, reason: str) -> None:
        self.image_id = image_id
        self.reason = reason
        super().__init__(image_id, reason)

    def _message(self) -> str:
        return f"cannot read image '{self.image_id}': {self.reason}"


class ModelError(TimmGamError, RuntimeError):
    """A model or its weights cannot be had, or do not fit each other."""


class UnknownModelError(ModelError):
    """No such model or tag."""


class CheckpointError(ModelError):
    """Weights lack tensors of the model, have others' shapes, or cannot be read."""


class HubError(TimmGamError, RuntimeError):
    """The Hub does not give what was asked of it: missing, private, unreachable."""


class EmbeddingError(TimmGamError):
    """A model gave embeddings that cannot be scored (not finite, wrong shape)."""


class ExportError(TimmGamError):
    """A model cannot be exported as asked, or what was written disagrees with it."""


class OutputError(TimmGamError):
    """A result cannot be written where it was asked for."""


class MachineError(TimmGamError):
    """Memory ran out, a device cannot be used, or a loader process was killed."""


class PeerError(MachineError):
    """Another process of the same run ended. The message is empty where that one says why."""


class TrainError(TimmGamError):
    """Base class of what training refuses or stops at."""


class RecipeError(TrainError):
    """An option, or a key of the YAML file, is unknown or has an illegal value."""


class RunFolderError(TrainError):
    """A run folder cannot be started, resumed or read."""


class DivergedError(TrainError):
    """The loss is no longer finite."""


class PublishError(TimmGamError):
    """Base class of what publishing refuses or fails at."""


class RefusedError(PublishError):
    """What came must not be published as it is; nothing was sent."""


class ConflictError(PublishError):
    """The Hub's state does not allow it: somebody else's commit came first, or a tag would move."""


class UploadError(PublishError):
    """The Hub did not take what was sent, or gave back something else."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none; printable, without secrets."""
    return message_text((str(error).splitlines() or [type(error).__name__])[0])
