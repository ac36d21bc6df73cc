"""Pulling weights: pinned releases, caches, damaged files, faults on the way, privacy; over a real socket."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from tests.hub.runs import write_checkpoint
from tests.loopback_hub import LoopbackHub
from timm_gam.core import HubError, file_sha256
from timm_gam.models import find_pretrained, read_releases, weights_digest
from timm_gam.models.weights.releases import find_release

REPO = "timm-gam/resnet18_se.corel"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder with the weights of resnet18_se for 80 classes."""
    return write_checkpoint(tmp_path_factory.mktemp("repo") / "model.safetensors", "resnet18_se", classes=80).parent


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "other" / "model.safetensors", "resnet18_se", seed=1, classes=80).parent


def pull(**arguments: Any) -> str:
    """What timm makes of the name, as a digest of its weights."""
    return weights_digest(create(**arguments).state_dict())


def create(**arguments: Any) -> Any:
    """The model of the repository, released or not."""
    overlay = {"hf_hub_id": REPO}
    return timm.create_model("resnet18_se.corel", pretrained=True, pretrained_cfg_overlay=overlay, **arguments)


def digest(folder: Path) -> str:
    return weights_digest(load_file(folder / "model.safetensors"))


def fails(message: str) -> None:
    with pytest.raises(HubError) as error:
        pull()
    assert message in str(error.value), error.value
    assert "\n" not in str(error.value)


def record(path: Path, monkeypatch: pytest.MonkeyPatch, **entry: str) -> None:
    path.write_text(json.dumps({REPO: entry}))
    monkeypatch.setenv("TIMM_GAM_RELEASES", str(path))


def test_a_release_is_pinned(
    weights: Path, other: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = hub.add("models", REPO, weights).head.id
    hub.add("models", REPO, other)
    assert pull() == digest(other), "no release: the head"
    sha256 = file_sha256(weights / "model.safetensors")
    record(tmp_path / "releases.json", monkeypatch, revision=released, sha256=sha256)
    assert pull() == digest(weights)
    assert find_pretrained("resnet18_se.corel").reference == f"{REPO}@{released}"
    record(tmp_path / "releases.json", monkeypatch, revision=released, sha256="0" * 64)
    fails("is not the released file: SHA-256 ")
    hub.requests.clear()
    record(tmp_path / "releases.json", monkeypatch, revision=released, sha256=sha256)
    assert pull() == digest(weights)
    assert hub.requests == [], "a cached commit needs no request"


def test_a_cached_release_is_hashed_once_per_load(
    weights: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = hub.add("models", REPO, weights).head.id
    sha256 = file_sha256(weights / "model.safetensors")
    record(tmp_path / "releases.json", monkeypatch, revision=released, sha256=sha256)
    pull()
    hashed: list[Path] = []
    monkeypatch.setattr("timm_gam.core.hub_download.file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    pull()
    assert len(hashed) == 1


def test_releases_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_releases(tmp_path / "none.json") == {}
    assert find_release("nobody/nothing") is None, "the package's own file is readable"
    for content in ("[]", "{", '{"a/b": {"revision": "x"}}', '{"a/b": {"revision": "main", "sha256": "0"}}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(HubError, match="'.*bad.json' (is no file of releases|names no commit)"):
            read_releases(tmp_path / "bad.json")


def test_from_cache_offline_and_with_a_dead_hub(
    weights: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    hub.add("models", REPO, weights)
    assert pull() == digest(weights)
    hub.faults.add("500", "GET /api/models/", times=9)
    assert pull() == digest(weights), "a Hub that fails does not matter to who has it"
    hub.faults.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert pull() == digest(weights)
    assert hub.requests == []
    shutil.rmtree(cache)
    fails("was not asked for: HF_HUB_OFFLINE is set")


def test_no_hub_at_all(cache: Path) -> None:
    fails("no answer from http://127.0.0.1:")


def test_what_the_hub_refuses(
    weights: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    fails("does not exist on http://127.0.0.1:")
    hub.add("models", REPO, weights, private=True)
    fails("or is private: check the name, or set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    fails("or is private")
    hub.repository("models", REPO).private = False
    hub.repository("models", REPO).gated = True
    fails("is gated: ask for access on its page")
    request.getfixturevalue("token")
    hub.repository("models", REPO).private = True
    assert pull() == digest(weights)
    assert hub.tokens_at_store == [], "the token goes to the endpoint only"


def test_a_damaged_cache_heals_itself_or_says_so(
    weights: Path, hub: LoopbackHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("models", REPO, weights)
    assert pull() == digest(weights)
    (blob,) = (path for path in cache.rglob("blobs/*") if path.is_file())
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert pull() == digest(weights), "downloaded again"
    blob.write_bytes(content)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails("was not asked for: HF_HUB_OFFLINE is set")
    assert not blob.exists(), "no poisoned cache"


@pytest.mark.parametrize(
    ("fault", "where", "times"),
    [
        ("flip", "GET /objects/", 1),
        ("drop", "GET /objects/", 2),
        ("slow", "GET /objects/", 1),
        ("500", "HEAD /timm-gam/.*/resolve/", 1),
    ],
    ids=["changed byte", "dropped connections", "slow server", "failing server"],
)
def test_faults_that_pass(fault: Any, where: str, times: int, weights: Path, hub: LoopbackHub, cache: Path) -> None:
    hub.add("models", REPO, weights)
    hub.faults.add(fault, where, times)
    try:
        assert pull() == digest(weights)
    except HubError as error:  # told in one line; the next pull is whole
        assert "\n" not in str(error)
        assert pull() == digest(weights)
    assert len(hub.faults.happened) == times


def test_faults_that_stay(weights: Path, hub: LoopbackHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", REPO, weights)
    hub.faults.add("flip", "GET /objects/", 2)
    fails("came damaged twice")
    hub.faults.add("truncate", "GET /objects/", 1)
    fails("downloading 'model.safetensors' of 'timm-gam/resnet18_se.corel' failed")
    hub.faults.add("500", "/api/models/", 1)
    fails("answers 500; try again later")
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(time=time.time, sleep=lambda _: None))
    hub.faults.add("500", "HEAD /timm-gam/.*/resolve/", 99)
    fails("answers 500; try again later")
    hub.faults.clear()
    assert pull() == digest(weights), "nothing of it stayed in the cache"


def test_pulled_weights_are_the_models_own(weights: Path, hub: LoopbackHub, cache: Path) -> None:
    """The model holds the mapped tensors of the cached file; training it must not reach the file."""
    hub.add("models", REPO, weights)
    model = create()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert pull() == digest(weights)
    few = create(num_classes=7, in_chans=1)
    assert few.fc.weight.shape == (7, 512)
    assert few.conv1.weight.shape[1] == 1
    assert torch.equal(few.layer4[1].se.fc2.weight, load_file(weights / "model.safetensors")["layer4.1.se.fc2.weight"])
    mine = load_file(weights / "model.safetensors")
    overlay = {"state_dict": mine, "num_classes": 80}
    model = timm.create_model("resnet18_se", pretrained=True, pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        model.conv1.weight.add_(1)
    assert weights_digest(mine) == digest(weights), "the caller's tensors are copied"
