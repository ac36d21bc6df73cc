"""A cache of its own for each test of the `datasets` library, and photographs to write in its formats."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from tests.helpers import write_class_folders


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def closed_in_time() -> Iterator[None]:
    """Files that the library leaves open are closed while the test's own filters of warnings hold, not in another."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, str]]:
    """(encoded JPEG, class name) of three classes."""
    root = write_class_folders(tmp_path_factory.mktemp("photos") / "photos")
    return [(path.read_bytes(), path.parent.name) for path in sorted(root.rglob("*.jpg"))]
