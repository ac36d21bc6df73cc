"""The ways of docs/AIR_GAPPED.md that need no mirror: a folder, and a cache that was filled elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants, snapshot_download

from hub.dataset import main as publish_dataset
from hub.publish import main as publish
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from timm_gam.data import read_parquet
from timm_gam.models import load_model

REPO = "timm-gam/test_resnet_gam.corel"


def test_folders_carried_over(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    assert publish(["test_resnet_gam", "--checkpoint", str(run)]) == 0
    expected = load_model(f"hf-hub:{REPO}").info.weights.sha256
    model, data = tmp_path / "model", tmp_path / "data"
    snapshot_download(REPO, local_dir=model)
    photos = write_class_folders(tmp_path / "photos")
    assert publish_dataset([str(photos), "--repo", "me/photos"]) == 0
    snapshot_download("me/photos", repo_type="dataset", local_dir=data)
    hub.faults.add("500", ".", times=99)
    hub.requests.clear()
    assert load_model(f"local-dir:{model}").info.weights.sha256 == expected
    assert timm.create_model(f"local-dir:{model}", pretrained=True).num_classes == 80
    assert len(read_parquet(data / "data")) == 12
    assert hub.requests == []


def test_a_cache_carried_over(
    run: Path, hub: LoopbackHub, token: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(["test_resnet_gam", "--checkpoint", str(run)]) == 0
    expected = load_model(f"hf-hub:{REPO}").info.weights.sha256
    shutil.copytree(cache, tmp_path / "carried", symlinks=True)
    shutil.rmtree(cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "carried"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert load_model(f"hf-hub:{REPO}").info.weights.sha256 == expected
    assert timm.create_model(f"hf-hub:{REPO}", pretrained=True).num_classes == 80
    assert hub.requests == []
