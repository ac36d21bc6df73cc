"""A Hub at the endpoint of this process, an empty cache for each test, and a training run to publish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.conftest import HUB_PORT
from tests.hub.runs import write_run
from tests.loopback_hub import TOKEN, LoopbackHub, serve_hub


@pytest.fixture
def hub(tmp_path: Path, cache: Path) -> Iterator[LoopbackHub]:
    """Served where HF_ENDPOINT of this process points."""
    with serve_hub(tmp_path / "hub", port=HUB_PORT) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub client's cache, empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """This process may write."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of test_resnet_gam on three classes, with an evaluation record of its weights; not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "test_resnet_gam-0", "test_resnet_gam")
