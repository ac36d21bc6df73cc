"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.timm_gam.train.helpers import write_shapes


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes of 10 images: 24 train, 8 validation, 8 test."""
    return write_shapes(tmp_path_factory.mktemp("data") / "photos", classes=4, images=10)
