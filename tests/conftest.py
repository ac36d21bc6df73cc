"""Fixtures shared by all tests: real data where it is given, and a process whose Hub is on the loopback interface."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.helpers import free_port

# Before anything imports the Hub client: no test may depend on what the machine has cached, or on the network.
# Nothing answers at the endpoint unless a test serves a Hub there (`hub` below).
HUB_PORT = free_port()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="timm-gam-tests-")
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.pop("HF_TOKEN", None)
os.environ["GRPC_VERBOSITY"] = "ERROR"  # of Milvus in this process, whenever another test forks one
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# Where these tests run in the background, Ctrl-C is ignored by them, and by the commands they start and send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402

from tests.loopback_hub import TOKEN, LoopbackHub, serve_hub  # noqa: E402

REAL_DATA = Path(os.environ.get("TIMM_GAM_TEST_DATA", "/nonexistent"))
"""A folder with data/coreldb (photographs in class folders) and weights; tests that need it are skipped without it."""


@pytest.fixture(scope="session")
def coreldb() -> Path:
    """10,800 COREL photos in 80 class folders; they are not part of the repository."""
    path = REAL_DATA / "data" / "coreldb"
    if not path.is_dir():
        pytest.skip("needs TIMM_GAM_TEST_DATA with data/coreldb: COREL photos, which are not part of the repository")
    return path


@pytest.fixture(scope="session")
def mobilenetv2_weights() -> Path:
    """Weights of an ImageNet MobileNetV2 without its classifier; not part of the repository."""
    path = REAL_DATA / "weights" / "mobilenetv2_100.onnxzoo7.safetensors"
    if not path.is_file():
        pytest.skip("needs TIMM_GAM_TEST_DATA with weights/mobilenetv2_100.onnxzoo7.safetensors")
    return path


@pytest.fixture
def hub(tmp_path: Path, cache: Path) -> Iterator[LoopbackHub]:
    """Served where HF_ENDPOINT of this process points."""
    with serve_hub(tmp_path / "hub", port=HUB_PORT) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub client's cache, empty."""
    from huggingface_hub import constants

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
    from tests.hub.runs import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "test_resnet_gam-0", "test_resnet_gam")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes of 10 images: 24 train, 8 validation, 8 test."""
    from tests.timm_gam.train.helpers import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "photos", classes=4, images=10)
