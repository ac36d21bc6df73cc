"""Fixtures shared by all tests: real data where it is at hand, and a process whose Hub is on the loopback interface."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from pathlib import Path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Before anything imports the Hub client: no test may depend on what the machine has cached, or on the network.
# Nothing answers at the endpoint unless a test serves a Hub there (`hub` in tests/hub/fixtures.py).
HUB_PORT = _free_port()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="timm-gam-tests-")
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.pop("HF_TOKEN", None)
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def coreldb() -> Path:
    """10,800 COREL photos in 80 class folders; they are not part of the repository."""
    path = SHARED / "data" / "coreldb"
    if not path.is_dir():
        pytest.skip("needs the COREL photos in ../shared/data/coreldb, which are not part of the repository")
    return path


@pytest.fixture(scope="session")
def mobilenetv2_weights() -> Path:
    """Weights of an ImageNet MobileNetV2 without its classifier; not part of the repository."""
    path = SHARED / "weights" / "mobilenetv2_100.onnxzoo7.safetensors"
    if not path.is_file():
        pytest.skip("needs ../shared/weights/mobilenetv2_100.onnxzoo7.safetensors, not part of the repository")
    return path
