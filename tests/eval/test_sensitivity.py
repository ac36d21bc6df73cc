"""Variants of preprocessing: what each changes, and that scores follow the pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from eval.sensitivity import main, variants
from tests.helpers import write_class_folders
from timm_gam.images import Preprocessing, resolve_preprocessing


def test_each_variant_changes_the_pixels_it_names() -> None:
    own = resolve_preprocessing(timm.create_model("test_resnet"))
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (300, 200, 3), dtype=np.uint8))
    made = {
        name: (one.transform() if isinstance(one, Preprocessing) else one)(image) for name, one in variants(own).items()
    }
    for name, pixels in made.items():
        assert name == "own" or pixels.shape != made["own"].shape or not torch.equal(pixels, made["own"]), name
    torch.testing.assert_close(made["BGR for RGB"], made["own"].flip(0))
    assert made["resized without antialiasing"].std() > 1.1 * made["own"].std(), "noise is sampled and not averaged"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=6)
    options = ["--model", "test_resnet.corel", "--data-dir", str(photos), "--classes", "2"]
    assert main([*options, "--results-file", str(tmp_path / "effects.json")]) == 0
    out = capsys.readouterr().out
    assert "BGR for RGB" in out and "12 images" in out
    effects = json.loads((tmp_path / "effects.json").read_text())["effects"]
    assert effects[0]["variant"] == "own" and effects[0]["interval"] == [0, 0] and effects[0]["p"] == 1
    assert main(["--model", "no_such_model", "--data-dir", str(photos)]) == 2


def test_one_class_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=2, images=4)
    options = ["--model", "test_resnet.corel", "--data-dir", str(photos), "--classes", "1"]
    assert main([*options, "--results-file", str(tmp_path / "effects.json")]) == 0
    assert "warning   only one class ('class0')" in capsys.readouterr().out
    assert json.loads((tmp_path / "effects.json").read_text())["warnings"][0].startswith("only one class ('class0')")
