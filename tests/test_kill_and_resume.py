"""kill -9 at any moment, then the same command again to its end: nothing half-written is left anywhere."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.helpers import write_class_folders
from tests.hub.runs import evaluate_checkpoint, write_checkpoint
from tests.processes import start
from timm_gam.core import leftovers


def slowly(root: Path, while_writing: str, module: str, argv: list[str]) -> int:
    """The command; it says what it writes, and stays at what it is to be killed at."""
    made = leftovers._made

    def slow(path: Path, folder: bool) -> object:
        result = made(path, folder)
        Path(root, "writing").write_text(path.name)
        time.sleep(30 if while_writing in path.name else 0)
        return result

    leftovers._made = slow  # type: ignore[assignment]
    return int(import_module(module).main(argv))


def training(root: Path) -> tuple[str, list[str], list[str]]:
    run = str(root / "run")
    command = ["--data-dir", str(root / "photos"), "--model", "test_resnet", "--start-from", "scratch", "--output", run]
    return (
        "timm_gam.train.__main__",
        [*command, *["--epochs", "2", "-b", "8", "--img-size", "32", "-j", "0"]],
        ["--resume", run],
    )


def scoring(root: Path) -> tuple[str, list[str], list[str]]:
    command = ["--data-dir", str(root / "photos"), "--model", "test_resnet.corel", "--interval", "none", "-j", "0"]
    command += ["--cache-dir", str(root / "cache"), "--results-file", str(root / "r.json"), "--img-size", "32"]
    return "eval.retrieval", command, command


def exporting(root: Path) -> tuple[str, list[str], list[str]]:
    command = ["test_resnet.corel", "--output", str(root / "made"), "--format", "torch"]
    return "timm_gam.export.__main__", command, command


def offering(root: Path) -> tuple[str, list[str], list[str]]:
    command = [str(root / "photos"), "--repo", "me/photos", "--dry-run"]
    return "hub.dataset", command, command


def publishing(root: Path) -> tuple[str, list[str], list[str]]:
    made = root / "made"  # a process clears a folder once, and this one has yet to clear `root`
    made.mkdir()
    checkpoint = write_checkpoint(made / "c.safetensors")
    command = ["test_resnet_gam.corel", "--checkpoint", str(checkpoint), "--dry-run", "--license", "mit"]
    command += ["--record", str(evaluate_checkpoint(made / "r.json", "test_resnet_gam", checkpoint))]
    return "hub.publish", command, command


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
@pytest.mark.parametrize(
    ("prepare", "while_writing"),
    [
        (training, "last"),
        (scoring, "r.json"),
        (scoring, ".safetensors"),
        (exporting, "made"),
        (offering, ".parquet"),
        (publishing, "config.json"),
    ],
    ids=["run", "record", "cache", "export", "dataset", "publish"],
)
def test_nothing_is_left(
    prepare: Callable[[Path], tuple[str, list[str], list[str]]],
    while_writing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_class_folders(tmp_path / "photos", classes=3, images=12)
    module, first, again = prepare(tmp_path)
    environment = {"TMPDIR": str(tmp_path), "HF_TOKEN": "", "HF_HUB_OFFLINE": "1"}
    writing = tmp_path / "writing"
    with start(slowly, tmp_path, while_writing, module, first, said=tmp_path / "said", **environment) as process:
        while not (writing.exists() and while_writing in writing.read_text()):
            assert process.is_alive(), f"it ended before it wrote that: {(tmp_path / 'said').read_text()}"
            time.sleep(0.05)
        process.kill()
    assert list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert import_module(module).main(again) == 0
    assert list(tmp_path.rglob("*.tmp")) == []
