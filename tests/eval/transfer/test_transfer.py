"""The transfer experiment from end to end, at a size that a test affords."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import timm_gam  # noqa: F401
from eval.transfer.__main__ import main
from eval.transfer.wide import WIDE

RECIPE = "epochs: 1\nbatch_size: 64\nimg_size: 32\nworkers: 0\nscale: [0.5, 1]\ncolor_jitter: 0\n"


def _cost(name: str) -> tuple[int, int]:
    model = timm.create_model(name, num_classes=40, device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 64, 64, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("plain", WIDE)
def test_the_wide_network_costs_what_gam_costs(plain: str) -> None:
    for wide, gam in zip(_cost(WIDE[plain]), _cost(f"{plain}_gam"), strict=True):
        assert wide == pytest.approx(gam, rel=0.02)


def test_experiment_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, output = tmp_path / "recipe.yaml", tmp_path / "out"
    config.write_text(RECIPE)
    options = ["--config", str(config), "--dataset", "synthetic", "--output", str(output), "--seeds", "0"]
    options += ["--lrs", "0.05", "--pretrain-epochs", "1"]
    assert main(options) == 0
    records = {path.stem: json.loads(path.read_text()) for path in (output / "records").iterdir()}
    assert len(records) == 1 + 7 + 7
    data = json.loads((output / "data.json").read_text())
    assert not set(data["classes"]) & set(data["pretrain_classes"])
    for name, record in records.items():
        assert ("test" in record) == name.startswith("final")  # tuning reads no test image
        if record["kind"] == "final":
            assert len(record["test"]["map"]) == len(data["test_labels"])
            assert ("test_gates_frozen" in record) == (record["arm"] != "plain")
    (output / "records" / "final-plain-0.json").unlink()
    capsys.readouterr()
    assert main(options) == 0
    assert capsys.readouterr().out.count("val mAP") == 1
    again = json.loads((output / "records" / "final-plain-0.json").read_text())
    assert again["test"] == records["final-plain-0"]["test"]


def test_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--data-dir" in capsys.readouterr().err
