"""Weights in the package: pretrained without a network, what their records say, and small."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

import eval as evaluation
from timm_gam.models import find_shipped, shipped_names
from timm_gam.models.weights.shipped_weights import SHIPPED

NAMES = ["test_resnet.corel", "test_resnet_cbam.corel", "test_resnet_gam.corel", "test_resnet_se.corel"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_four_tiny_models_ship_and_are_small() -> None:
    assert shipped_names() == NAMES
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 8e6
    assert find_shipped("test_resnet") is None, "timm's own name stays timm's"
    assert find_shipped("../shipped") is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "test_resnet.corel"])
def test_timm_creates_them_pretrained(name: str) -> None:
    architecture = name.partition(".")[0]
    assert name in timm.list_pretrained("test_resnet_*")
    expected = load_file(SHIPPED / name / "model.safetensors")
    for asked in (name, architecture):
        state = timm.create_model(asked, pretrained=True).state_dict()
        assert all(torch.equal(state[key], tensor.to(state[key].dtype)) for key, tensor in expected.items())
    assert timm.create_model(architecture, pretrained=True, num_classes=0).num_classes == 0
    assert timm.create_model(architecture).num_classes == 1000, "without weights, the classes of every ResNet"


@pytest.mark.parametrize("name", NAMES)
def test_the_evaluation_loads_them_by_name_as_timm_does_by_folder(name: str) -> None:
    loaded = evaluation.load_model(name)
    assert loaded.info.weights.kind == "pretrained"
    assert loaded.info.weights.reference == name
    assert evaluation.resolve_preprocessing(loaded.model).input_size == (3, 64, 64)
    theirs = timm.create_model(f"local-dir:{SHIPPED / name}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(theirs(x), loaded.model(x))


@pytest.mark.parametrize("name", NAMES)
def test_records_are_of_these_weights(name: str) -> None:
    record = json.loads((SHIPPED / name / "evaluation.json").read_text())
    (result,) = record["results"]
    assert result["model"]["architecture"] == name.partition(".")[0]
    assert "test" in result["protocol"]["description"]
    tensors = load_file(SHIPPED / name / "model.safetensors")
    assert all(t.dtype in (torch.float16, torch.int64) for t in tensors.values())
    text = "".join(p.read_text() for p in (SHIPPED / name).rglob("*") if p.suffix in {".json", ".yaml", ".csv"})
    assert not re.search(r"""(?m)(?:^|["' ,=])/\w""", text), "no path of the machine that trained them"
