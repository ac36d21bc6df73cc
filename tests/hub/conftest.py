"""The fixtures of `tests.hub.fixtures`, for every test here."""

from __future__ import annotations

from tests.hub.fixtures import cache, hub, run, token

__all__ = ["cache", "hub", "run", "token"]
