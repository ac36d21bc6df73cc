"""`pretrained=True` where no attention is trained: timm's plain weights and attention that does nothing, by any client.

timm and huggingface_hub pull from a Hub on the loopback interface. The plain network is the oracle: timm makes it from
the same files, and every value must be the same, bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import timm_gam
from tests.loopback_hub import LoopbackHub
from tests.timm_gam.models.test_backbone import plain
from timm_gam.core import CheckpointError
from timm_gam.models import find_pretrained, gate_layers, load_model
from timm_gam.train import Recipe, start_model

PLAIN = "resnet18.a1_in1k"
REPO = f"timm/{PLAIN}"
KINDS = ["gam", "se", "cbam"]
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of a plain network, as timm publishes it; its weights are drawn, and look trained."""
    folder = tmp_path_factory.mktemp("plain")
    timm.models.save_for_hf(plain("resnet18"), folder, safe_serialization=True)
    return folder


@pytest.fixture
def on_hub(hub: LoopbackHub, weights: Path) -> LoopbackHub:
    hub.add("models", REPO, weights)
    return hub


def create(kind: str, **arguments: Any) -> nn.Module:
    return timm.create_model(f"resnet18_{kind}.a1_in1k_identity", pretrained=True, **arguments)


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(model: nn.Module, oracle: nn.Module, channels: int = 3, training: bool = False) -> None:
    """Features, maps where there are several, and logits where both have a classifier for as many classes."""
    ours, theirs = model.train(training), oracle.train(training)
    x = images(channels)
    if not hasattr(theirs, "forward_features"):
        maps = list(zip(ours(x), theirs(x), strict=True))
        assert len(maps) == 5
        assert all(torch.equal(a, b) for a, b in maps)
        return
    expected = theirs.forward_features(x)
    assert expected.abs().max() > 0
    assert torch.equal(ours.forward_features(x), expected)
    if model.num_classes == oracle.num_classes == 1000:
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(kind, arguments) for kind in KINDS for arguments in ({}, {"features_only": True})]
    + [("gam", arguments) for arguments in ({"num_classes": 7}, {"num_classes": 0}, {"in_chans": 1})]
    + [("cbam", {"output_stride": 16})],
    ids=str,
)
def test_features_are_the_plain_networks(kind: str, arguments: dict[str, Any], on_hub: LoopbackHub) -> None:
    model, oracle = create(kind, **arguments), timm.create_model(PLAIN, pretrained=True, **arguments)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_same(model, oracle, channels=arguments.get("in_chans", 3))
    if arguments.get("num_classes") == 7:
        assert model.fc.weight.shape == (7, 512)
    if not arguments:
        assert_same(model, oracle, training=True)
        assert model.pretrained_cfg["tag"] == "a1_in1k_identity"
        assert len(list(gate_layers(model))) > 0


@pytest.mark.parametrize("name", ["resnet50_gam", "resnet50_gam_g4"])
def test_the_names_of_the_readme(name: str, hub: LoopbackHub, tmp_path: Path) -> None:
    timm.models.save_for_hf(plain("resnet50"), tmp_path / "plain", safe_serialization=True)
    hub.add("models", "timm/resnet50.a1_in1k", tmp_path / "plain")
    assert_same(timm.create_model(name, pretrained=True), timm.create_model("resnet50", pretrained=True))


def test_default_name_offline_and_from_an_empty_cache(on_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = timm.create_model(PLAIN, pretrained=True)
    assert_same(timm.create_model("resnet18_cbam", pretrained=True), oracle)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    on_hub.requests.clear()
    assert_same(timm.create_model("resnet18_gam", pretrained=True), oracle)
    assert on_hub.requests == [], "the plain network's file in the cache serves every variant"


def test_a_pinned_revision(hub: LoopbackHub, weights: Path, tmp_path: Path) -> None:
    first = hub.add("models", REPO, weights).head.id
    timm.models.save_for_hf(plain("resnet18", seed=1), tmp_path / "second", safe_serialization=True)
    hub.add("models", REPO, tmp_path / "second")
    for revision, seed in ((f"@{first}", 0), ("", 1)):
        overlay = {"hf_hub_id": REPO + revision}
        assert_same(create("se", pretrained_cfg_overlay=overlay), plain("resnet18", seed=seed))
        assert_same(create("gam", pretrained_cfg_overlay=overlay), timm.create_model(f"hf-hub:{REPO}{revision}", True))


@each_kind
def test_evaluation_training_and_from_backbone_start_alike(kind: str, on_hub: LoopbackHub, weights: Path) -> None:
    name = f"resnet18_{kind}.a1_in1k_identity"
    commit = on_hub.head("models", REPO).id
    oracle = timm.create_model(PLAIN, pretrained=True)
    loaded = load_model(name)
    assert (loaded.info.name, loaded.info.weights.kind) == (name, "pretrained")
    assert loaded.info.weights.reference == find_pretrained(name).reference == f"{REPO}@{commit}"
    assert loaded.info.model_args == {"gate_init": "identity"}
    assert_same(loaded.model, oracle)
    assert_same(load_model(f"resnet18_{kind}").model, oracle)
    for recipe in (Recipe(model=f"resnet18_{kind}", start=name), Recipe(model=name)):
        model, start = start_model(recipe, 5)
        assert (start.kind, start.source, start.gate_init) == ("backbone", name, "identity")
        assert_same(model, oracle)
    file = hf_hub_download(REPO, "model.safetensors")
    assert_same(timm_gam.from_backbone(f"resnet18_{kind}", file)[0], oracle)


def test_training_moves_the_gates_and_what_is_saved_is_whole(on_hub: LoopbackHub, tmp_path: Path) -> None:
    model = create("gam", num_classes=5)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model.train()(images()), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert any(bool(layer.channel.fc2.weight.any()) for layer in model.modules() if hasattr(layer, "channel"))
    timm.models.save_for_hf(model, tmp_path / "tuned", safe_serialization=True)
    name = f"local-dir:{tmp_path / 'tuned'}"
    for again in (timm.create_model(name, pretrained=True), load_model(name).model):
        assert_same(again, model)
    # Without its attention it is no start, although its config.json has the tag of one.
    file = tmp_path / "tuned" / "model.safetensors"
    headless = {n: t.clone() for n, t in load_file(file).items() if ".se." not in n}
    save_file(headless, file)
    with pytest.raises(CheckpointError, match=r"does not fit resnet18_gam: \d+ tensors missing"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("damage", ["missing", "shape", "more"])
def test_files_that_are_not_the_plain_network(damage: str, hub: LoopbackHub, weights: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(weights / "model.safetensors").items()}
    if damage == "missing":
        del tensors["layer3.0.bn2.weight"]
    else:
        tensors["layer3.0.bn2.weight" if damage == "shape" else "layer3.0.se.fc1.weight"] = torch.zeros(3)
    (tmp_path / "bad").mkdir()
    save_file(tensors, tmp_path / "bad" / "model.safetensors")
    hub.add("models", REPO, tmp_path / "bad")
    for arguments in ({}, {"num_classes": 3}, {"features_only": True}):
        with pytest.raises(CheckpointError, match="does not fit resnet18_gam"):
            create("gam", **arguments)


def test_the_name_decides_the_gates() -> None:
    with pytest.raises(CheckpointError, match="starts at identity gates; for others: timm_gam.from_backbone"):
        create("gam", gate_init="paper")


def test_scores_say_that_the_attention_does_nothing_yet(
    on_hub: LoopbackHub, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.retrieval import main

    options = ["--data-dir", str(photos), "--img-size", "32", "-j", "0", "--interval", "none", "--results-file", "-"]
    assert main(["--model", "resnet18_gam", "resnet18.a1_in1k", *options]) == 0
    said = capsys.readouterr()
    assert (
        "resnet18_gam: ImageNet weights of the plain resnet18.a1_in1k; the GAM attention is untrained and does"
        in said.err
    )
    document = json.loads(said.out)
    ours, theirs = document["results"]
    assert ours["weights"]["reference"] == theirs["weights"]["reference"]
    assert ours["metrics"] == theirs["metrics"]
    assert any("untrained" in note for note in document["notes"])
