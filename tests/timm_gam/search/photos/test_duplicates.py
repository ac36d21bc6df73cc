"""Duplicates of a folder: planted copies and near copies are grouped, nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.timm_gam.search.photos.conftest import MODEL
from timm_gam.search.__main__ import main


def scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((240, 160), Image.Resampling.BICUBIC)


def test_planted_copies_are_grouped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed in range(6):
        scene(seed).save(folder / f"{seed}.jpg", quality=95)
    scene(0).resize((120, 80)).save(folder / "more" / "small.jpg")
    scene(0).convert("L").save(folder / "more" / "grey.jpg")
    shutil.copy(folder / "1.jpg", folder / "more" / "copy.jpg")
    for colour in ("red", "blue"):  # flat: equally alike, and no duplicates
        Image.new("RGB", (60, 40), colour).save(folder / f"{colour}.png")
    sheets = ["--html", str(tmp_path / "sheet.html"), "--png", str(tmp_path / "sheet.png")]
    assert main(["index", str(folder), "--model", MODEL, "-j", "0"]) == 0
    capsys.readouterr()
    assert main(["duplicates", str(folder), "--json", *sheets]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] == {"rate": round(1 / 11, 6), "groups": [["1.jpg", "more/copy.jpg"]]}
    assert found["near"]["rate"] == round(2 / 11, 6)
    assert [sorted(group) for group in found["near"]["groups"]] == [["0.jpg", "more/grey.jpg", "more/small.jpg"]]
    assert found["near"]["groups"][0][-1] == "more/small.jpg", "most pixels first"
    assert (tmp_path / "sheet.html").read_text().count("data:image/webp") == 5
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000
    (folder / "more" / "small.jpg").unlink()
    assert main(["index", str(folder), "-j", "0"]) == 0
    capsys.readouterr()
    assert main(["duplicates", str(folder), "--near", "1"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "same  1.jpg, more/copy.jpg" and "1 copies in 1 groups (10.00%)" in said
