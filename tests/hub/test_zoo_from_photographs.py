"""The two commands of the README, whole and small: photographs -> Table 1 -> a published zoo that names stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import yaml
from safetensors.torch import load_file

from eval.table1 import main as train_table
from hub.release import main as release
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub
from tests.timm_gam.models.test_backbone import plain
from timm_gam.core import file_sha256
from timm_gam.models import load_model, weights_digest

MODELS = ["test_resnet", "test_resnet_cbam", "test_resnet_gam", "test_resnet_se"]
RECIPE = {"img_size": 32, "epochs": 1, "warmup_epochs": 0, "workers": 0, "batch_size": 64, "lr": 0.001}
"""From ImageNet weights, as the paper does."""


def test_from_photographs_to_a_published_zoo(
    hub: LoopbackHub, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timm.models.save_for_hf(plain("test_resnet"), tmp_path / "plain", safe_serialization=True)
    hub.add("models", "timm/test_resnet.r160_in1k", tmp_path / "plain")
    photos = write_class_folders(tmp_path / "coreldb", classes=80, images=10)  # the classes of .corel
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    runs, releases = tmp_path / "runs", tmp_path / "releases.json"

    options = ["--family", "test_resnet", "--config", str(tmp_path / "recipe.yaml"), "--seeds", "0"]
    assert train_table([*options, "--data-dir", str(photos), "--output", str(runs)]) == 0
    assert "paper Top-1" in capsys.readouterr().out
    assert release([str(runs), "--tag", "corel", "--revision", "v1.0", "--releases", str(releases)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("test_resnet")]
    states = [cells[-2:] for cells in lines if len(cells) == 7]
    assert states == [["published", f"{model}-0"] for model in MODELS]

    monkeypatch.setenv("TIMM_GAM_RELEASES", str(releases))
    entries = json.loads(releases.read_text())
    assert set(entries) == {f"timm-gam/{model}.corel" for model in MODELS}
    for model in MODELS:
        repo = f"timm-gam/{model}.corel"
        trained = load_file(runs / f"{model}-0" / "best.safetensors")
        assert entries[repo]["revision"] == hub.head("models", repo).id == hub.repository("models", repo).tags["v1.0"]
        pulled = timm.create_model(f"hf-hub:{repo}", pretrained=True)
        assert weights_digest(pulled.state_dict()) == weights_digest(trained)
        assert load_model(f"hf-hub:{repo}@v1.0").info.weights.sha256 == weights_digest(trained)
        files = hub.copy_out("models", repo, tmp_path / "out" / model)
        assert file_sha256(files / "model.safetensors") == entries[repo]["sha256"]
        card, config = (files / "README.md").read_text(), json.loads((files / "config.json").read_text())
        assert "base_model: timm/test_resnet.r160_in1k" in card
        assert "license: apache-2.0" in card
        assert "untrained" not in card + json.dumps(config)
        assert config["label_names"] == sorted(path.name for path in photos.iterdir())

    # The variant by its name, from the commit that the file of releases pins.
    overlay = {"hf_hub_id": "timm-gam/test_resnet_gam.corel", "file": None}  # the package has a tiny one of its own
    model = timm.create_model("test_resnet_gam", pretrained=True, pretrained_cfg_overlay=overlay)
    assert weights_digest(model.state_dict()) == weights_digest(load_file(runs / "test_resnet_gam-0/best.safetensors"))
    assert release([str(runs), "--tag", "corel", "--revision", "v1.0", "--releases", str(releases)]) == 0
    assert "unchanged" in capsys.readouterr().out
