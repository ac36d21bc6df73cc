"""The Hub's default transfer: the untouched clients push and pull by Xet, through a local store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub.publish import main
from tests.conftest import HUB_PORT
from tests.loopback_hub import LoopbackHub, serve_hub

pytest.importorskip("hf_xet")


@pytest.fixture
def xet_hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with serve_hub(tmp_path / "hub", port=HUB_PORT, xet=True) as hub:
        yield hub


def test_published_and_pulled_by_xet(run: Path, xet_hub: LoopbackHub, token: str) -> None:
    assert main(["test_resnet_gam", "--checkpoint", str(run)]) == 0
    asked = " ".join(xet_hub.requests)
    assert "/xet-write-token/" in asked
    assert "/xet-read-token/" in asked
    assert "/info/lfs/" not in asked, "no LFS on the way"
    assert xet_hub.tokens_at_store == []
    assert main(["test_resnet_gam", "--checkpoint", str(run)]) == 0
    assert len(xet_hub.repository("models", "timm-gam/test_resnet_gam.corel").commits) == 2
