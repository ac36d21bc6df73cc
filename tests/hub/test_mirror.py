"""Pulling through Olah, a pull-through mirror of the Hub, online and offline.

Needs `olah-cli` on the path, or its path in TIMM_GAM_OLAH: `pip install olah` in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm

from tests.conftest import HUB_PORT
from tests.hub.runs import write_checkpoint
from tests.loopback_hub import LoopbackHub, serve_hub
from timm_gam.core import file_sha256
from timm_gam.models import weights_digest

OLAH = os.environ.get("TIMM_GAM_OLAH") or shutil.which("olah-cli")
REPO = "timm-gam/resnet18_se.corel"

pytestmark = pytest.mark.skipif(OLAH is None, reason="needs olah-cli on the path, or its path in TIMM_GAM_OLAH")


@contextmanager
def mirror(hub: LoopbackHub, folder: Path, offline: bool) -> Iterator[None]:
    """Olah in front of a Hub, at the endpoint of this process."""
    config = folder / "olah.toml"
    config.write_text(
        f"""[basic]
host = "127.0.0.1"
port = {HUB_PORT}
hf-scheme = "http"
hf-netloc = "{hub.url.removeprefix("http://")}"
hf-lfs-netloc = "{hub.store_url.removeprefix("http://")}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{HUB_PORT}"
mirror-lfs-netloc = "127.0.0.1:{HUB_PORT}"
repos-path = "{folder / "repos"}"
log-path = "{folder / "logs"}"

[accessibility]
offline = {str(offline).lower()}

[[accessibility.proxy]]
repo = "*"
allow = true
use_re = false

[[accessibility.cache]]
repo = "*"
allow = true
use_re = false
"""
    )
    with (folder / f"olah-{offline}.log").open("w") as log:
        process = subprocess.Popen([str(OLAH), "-c", str(config)], cwd=folder, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", HUB_PORT)) == 0:
                        break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


def pull() -> str:
    return weights_digest(timm.create_model("resnet18_se.corel", pretrained=True).state_dict())


def test_a_release_is_pulled_through_a_mirror_online_and_offline(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_checkpoint(tmp_path / "repo" / "model.safetensors", "resnet18_se", classes=80)
    expected = weights_digest(timm.models.load_state_dict(weights))
    with serve_hub(tmp_path / "hub") as hub:
        commit = hub.add("models", REPO, weights.parent).head.id
        # A commit, as a release pins it: offline, Olah does not know what a branch stands for.
        releases = tmp_path / "releases.json"
        releases.write_text(json.dumps({REPO: {"revision": commit, "sha256": file_sha256(weights)}}))
        monkeypatch.setenv("TIMM_GAM_RELEASES", str(releases))
        with mirror(hub, tmp_path, offline=False):
            assert pull() == expected
            assert hub.requests != []
    shutil.rmtree(cache)
    with mirror(hub, tmp_path, offline=True):  # the Hub itself is gone
        assert pull() == expected
