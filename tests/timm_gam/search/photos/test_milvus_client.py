"""The client of Milvus as this package sets it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from timm_gam.search.stores.milvus_client import open_milvus


def test_an_idle_client_does_not_ask_milvus_lite_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("pymilvus")
    opened, channel = [], grpc.insecure_channel

    def recording(target: str, options: Any = None, **more: Any) -> Any:
        opened.append(dict(options))
        return channel(target, options=options, **more)

    monkeypatch.setattr(grpc, "insecure_channel", recording)
    client = open_milvus(str(tmp_path / "a.db"))
    assert client.list_collections() == []
    client.close()
    assert opened
    assert not any(options["grpc.keepalive_permit_without_calls"] for options in opened)
