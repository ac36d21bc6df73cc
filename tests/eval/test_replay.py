"""A record is scored again to the same digits; what differs is named: images, weights, preprocessing, versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.replay import main
from eval.retrieval import main as retrieval
from tests.helpers import write_class_folders

MODEL = ["--model", "test_resnet_gam.corel"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("replay")
    photos = write_class_folders(root / "photos", classes=3, images=12)
    record = root / "results.json"
    options = ["--img-size", "48", "--split", "test", "--interval", "none", "-j", "0"]
    assert retrieval([*MODEL, "--data-dir", str(photos), *options, "--results-file", str(record)]) == 0
    return photos, record


def test_the_same_numbers(scored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    photos, record = scored
    assert main([str(record), "--data-dir", str(photos)]) == 0
    assert "metrics are the same" in capsys.readouterr().out


def test_what_differs_is_named(scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, record = scored
    content = json.loads(record.read_text())
    entry = content["results"][0]
    entry["metrics"]["map"]["micro"] -= 0.25
    entry["weights"]["sha256"] = "0" * 64
    entry["certificate"]["jpeg_sha256"] = "0" * 64
    content["versions"]["pillow"] = "1.0"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    assert main([str(changed), "--data-dir", str(photos)]) == 1
    out = capsys.readouterr().out
    for said in ("1 of", "map ", "weights: 000", "preprocessing jpeg_sha256", "version of pillow: 1.0 recorded"):
        assert said in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.json", "--data-dir", "x"], "cannot read"),
        (["RECORD"], "--data-dir or --dataset"),
        (["RECORD", "--data-dir", "PHOTOS", "--model", "other"], "no entry 'other'"),
        (["BROKEN", "--data-dir", "PHOTOS"], "name a record"),
    ],
)
def test_bad_input_is_one_line(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    photos, record = scored
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "other"}')
    names = {"RECORD": str(record), "PHOTOS": str(photos), "BROKEN": str(broken)}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err
