"""Errors of publishing. The command lines turn each into one line on stderr and exit code 2.

PublishError
 |-- RefusedError    what came must not be published as it is; nothing was sent
 |-- ConflictError   the Hub's state does not allow it: a lost race, a tag that would move
 |-- UploadError     the Hub did not take it, or gave back something else
"""

from __future__ import annotations

__all__ = ["ConflictError", "PublishError", "RefusedError", "UploadError"]


class PublishError(Exception):
    """Base class: what was received, what is legal, what to do next, in one line."""


class RefusedError(PublishError):
    """What came must not be published as it is; nothing was sent."""


class ConflictError(PublishError):
    """The Hub's state does not allow it: somebody else's commit came first, or a tag would move."""


class UploadError(PublishError):
    """The Hub did not take what was sent, or gave back something else."""
