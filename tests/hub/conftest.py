"""Pictures of cards are of few scenes in tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.model.repository.IMAGES_PER_CLASS", 2)
