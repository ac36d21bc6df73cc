"""Images that ask for too much, through the commands that read images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from eval.retrieval import main as score
from tests.helpers import score_command, write_class_folders
from tests.timm_gam.images.test_limits import grey_16, noisy_tiffs, scan_bomb

OPTIONS = ["--max-scans", "50", "--max-decode-mb", "64", "--max-decode-seconds", "9"]


def test_each_is_one_line_or_skipped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos = write_class_folders(tmp_path / "photos")
    bombs = {"scans.jpg": scan_bomb(51, side=64), "memory.png": grey_16(4000)}
    bombs |= {f"noise{number}.tif": data for number, data in enumerate(noisy_tiffs()[:3])}
    out = tmp_path / "r.json"
    command = [*score_command(photos), *OPTIONS]
    for name, data in bombs.items():
        (photos / "class1" / name).write_bytes(data)
        for workers in ("0", "1"):
            assert score([*command, "-j", workers]) == 2
            error = capfd.readouterr().err
            assert error.startswith(f"error: cannot read image 'class1/{name}': ")
            assert error.count("\n") == 1
        (photos / "class1" / name).unlink()
    for name, data in bombs.items():
        (photos / "class1" / name).write_bytes(data)
    assert score([*command, "-j", "1", "--skip-unreadable", "--results-file", str(out)]) == 0
    assert capfd.readouterr().err == ""
    unreadable = {one["id"]: one["reason"] for one in json.loads(out.read_text())["results"][0]["data"]["unreadable"]}
    assert set(unreadable) == {f"class1/{name}" for name in bombs}
    assert unreadable["class1/scans.jpg"] == "a JPEG of 51 scans, 50 are decoded; --max-scans allows more"
    assert unreadable["class1/memory.png"].endswith(" MB to decode it, 64 MB are given; --max-decode-mb allows more")


COMMANDS = {
    "eval.retrieval": [],
    "eval.sensitivity": ["--model", "m"],
    "eval.tune": ["--model", "m"],
    "eval.head": ["--model", "m", "--output", "o"],
    "eval.gates": ["--model", "m", "--data-dir", "photos"],
    "eval.table1": [],
    "eval.transfer": [],
    "eval.replay": ["record.json"],
    "timm_gam.train": [],
    "timm_gam.search": ["index", "photos"],
    "timm_gam.search ": ["query", "photo.jpg", "--in", "photos"],
    "timm_gam.search  ": ["serve", "photos"],
    "timm_gam.search   ": ["duplicates", "photos"],
    "hub.dataset": ["photos", "--repo", "a/b", "--license", "mit"],
    "hub.space": ["photos", "--repo", "a/b", "--license", "mit"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reads_images_has_the_options(name: str) -> None:
    module = name.strip()
    home = {"eval.retrieval": "eval.arguments.retrieval", "timm_gam.train": "timm_gam.train.arguments"}
    home |= {"timm_gam.search": "timm_gam.search.__main__", "eval.transfer": "eval.transfer.__main__"}
    parser = importlib.import_module(home.get(module, module)).build_parser()
    args = parser.parse_args([*COMMANDS[name], *OPTIONS])
    assert (args.max_scans, args.max_decode_mb, args.max_decode_seconds) == (50, 64, 9)


def test_training_takes_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from timm_gam.train.__main__ import main as train

    photos = write_class_folders(tmp_path / "photos")
    for folder in photos.iterdir():
        (folder / "bomb.jpg").write_bytes(scan_bomb(51, side=64))
    command = [
        "--data-dir",
        str(photos),
        "--model",
        "test_resnet",
        "--start-from",
        "scratch",
        "--output",
        str(tmp_path / "run"),
    ]
    assert train([*command, "--epochs", "1", "-b", "4", "--img-size", "32", "--max-scans", "50"]) == 2
    error = capsys.readouterr().err
    assert "3 images cannot be read, the first is 'class0/bomb.jpg' (a JPEG of 51 scans, 50 are decoded; " in error
    assert error.count("\n") == 1
