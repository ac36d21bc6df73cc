"""Releasing a folder of runs: each published or said why not, and what is done is not done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
from safetensors.torch import load_file

from hub.release import main
from tests.hub.runs import write_run
from tests.loopback_hub import LoopbackHub
from timm_gam.core import file_sha256
from timm_gam.models import weights_digest

GAM, SE = "timm-gam/test_resnet_gam.corel", "timm-gam/test_resnet_se.corel"


def test_a_release_goes_on_after_a_failure(
    run: Path,
    hub: LoopbackHub,
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs, releases = tmp_path / "runs", tmp_path / "releases.json"
    shutil.copytree(run, runs / "gam")
    shutil.copytree(run, runs / "another")  # of several seeds the lowest is released, whichever scored best
    recipe = (runs / "another" / "config.yaml").read_text()
    (runs / "another" / "config.yaml").write_text(f"{recipe}seed: 3\n")
    write_run(runs / "se", "test_resnet_se")
    record = (runs / "se" / "evaluation.json").read_text()
    (runs / "se" / "evaluation.json").write_text(record.replace('"sha256": "', '"sha256": "0')[:-1])
    command = [str(runs), "--releases", str(releases), "--revision", "v1.0"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "1 of 2 not published (test_resnet_se); run the same command again" in said.err
    assert "test_resnet_se: " in said.out
    assert set(json.loads(releases.read_text())) == {GAM}

    (runs / "se" / "evaluation.json").write_text(record)
    assert main(command) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("test_resnet_")]
    states = [cells[-2:] for cells in table if len(cells) == 7]
    assert states == [["unchanged", "gam"], ["published", "se"]]
    entries = json.loads(releases.read_text())
    assert {repo: entry["revision"] for repo, entry in entries.items()} == {
        repo: hub.head("models", repo).id for repo in (GAM, SE)
    }
    out = hub.copy_out("models", GAM, tmp_path / "out")
    assert entries[GAM]["sha256"] == file_sha256(out / "model.safetensors")
    assert len(hub.repository("models", GAM).commits) == 2

    # What is released is what the name gives, whatever comes to the head of the repository later.
    hub.add("models", GAM, hub.copy_out("models", SE, tmp_path / "later"))
    monkeypatch.setenv("TIMM_GAM_RELEASES", str(releases))
    overlay = {"hf_hub_id": GAM, "file": None}
    model = timm.create_model("test_resnet_gam", pretrained=True, num_classes=80, pretrained_cfg_overlay=overlay)
    assert weights_digest(model.state_dict()) == weights_digest(load_file(run / "best.safetensors"))


def test_refuses_unclear_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releases = ["--releases", str(tmp_path / "releases.json")]
    assert main([str(tmp_path), *releases]) == 2
    assert "no training runs in" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "runs" / "a")
    shutil.copytree(run, tmp_path / "runs" / "b")
    assert main([str(tmp_path / "runs"), *releases]) == 2
    assert "'a' and 'b' are both runs of test_resnet_gam with seed 0" in capsys.readouterr().err
    assert not (tmp_path / "releases.json").exists()
