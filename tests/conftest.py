"""Fixtures shared by all tests: real data where it is at hand, and a process without the Hub."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports the Hub client: no test may depend on what the machine has cached, or on the network.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

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
