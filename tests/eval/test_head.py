"""Heads on frozen embeddings: trained, kept, put under a model and published with it."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import timm_gam.train.head as module
from eval import Settings, choose_protocol, draw_synthetic, evaluate
from eval.head import main, train_and_score
from hub.publish import main as publish
from tests.helpers import write_class_folders
from tests.hub.runs import write_checkpoint
from tests.loopback_hub import LoopbackHub
from timm_gam.core import CheckpointError, ModelError, RecipeError
from timm_gam.data import published_class_split
from timm_gam.embed import Embedder, EmbedSettings, read_head
from timm_gam.models import load_model, weights_digest
from timm_gam.rerank import fit_whitening
from timm_gam.train import HeadRecipe, train_head

FACTS = {"weights": "0" * 64, "layer": "pooled", "trained_on": "points"}
SMALL = ["--epochs", "4", "--hidden", "64", "--dim", "32", "--batch-size", "64", "-j", "0"]


def _points(seed: int, classes: int = 10, each: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that only a few directions of many tell apart."""
    centres = 3 * torch.randn(classes, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(classes * each) % classes
    noise = torch.randn(len(labels), 44, generator=torch.Generator().manual_seed(seed))
    return torch.cat([centres[labels] + noise[:, :4], 4 * noise[:, 4:]], dim=1), labels


def _nearest_agree(vectors: torch.Tensor, labels: torch.Tensor) -> float:
    scores = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    return float((labels[scores.fill_diagonal_(-2).argmax(dim=1)] == labels).float().mean())


@pytest.mark.parametrize("loss", ["cross-entropy", "arcface", "proxy-anchor"])
@pytest.mark.parametrize("hidden", [0, 32])
def test_a_head_helps_images_it_has_not_seen(loss: str, hidden: int) -> None:
    recipe = HeadRecipe(loss, hidden=hidden, dim=8, epochs=40, batch_size=40, power=1.0)
    head = train_head(*_points(1), recipe, **FACTS)
    vectors, labels = _points(2)
    assert _nearest_agree(head(vectors), labels) > _nearest_agree(vectors, labels) + 0.1
    again = train_head(*_points(1), recipe, **FACTS)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_whitening_is_a_head() -> None:
    vectors, labels = _points(1)
    head = train_head(vectors, labels, HeadRecipe("whitening", dim=12, power=1.0), **FACTS)
    torch.testing.assert_close(head(vectors), fit_whitening(vectors, 12)(vectors), atol=1e-5, rtol=0)


def test_kept_and_read_again(tmp_path: Path) -> None:
    head = train_head(*_points(1), HeadRecipe(hidden=8, dim=4, epochs=1), views={"flip": True}, **FACTS)
    head.save(path := tmp_path / "head.safetensors")
    again = read_head(path)
    assert again.facts == head.facts and again.layers == [44, 8, 4]
    torch.testing.assert_close(again(_points(2)[0]), head(_points(2)[0]))
    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors", {"format": "timm-gam/head/1", "facts": "{}"})
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("other", "text", "missing"):
        with pytest.raises(CheckpointError, match="cannot read the head"):
            read_head(tmp_path / f"{name}.safetensors")


def test_as_the_last_layer_of_a_model_it_scores_what_training_said(tmp_path: Path) -> None:
    loaded = load_model("test_resnet_gam.corel")
    images = draw_synthetic(10)
    protocol = choose_protocol(images, split="test")
    recipe = HeadRecipe(hidden=64, dim=32, epochs=40, batch_size=32)
    settings = Settings(EmbedSettings(flip=True, workers=0))
    head, plain, better = train_and_score(loaded, images, protocol, recipe, settings=settings)
    assert better.averages["map"].micro > plain.averages["map"].micro
    head.save(tmp_path / "head.safetensors")
    under = replace(loaded, head=tmp_path / "head.safetensors")
    result = evaluate(under, images, protocol, settings=Settings(EmbedSettings(workers=0), intervals="none"))
    np.testing.assert_allclose(result.metric("map"), better.metric("map"), atol=1e-6)
    model = result.facts.model
    assert model is not None and model.head is not None
    assert (model.embedding_dim, model.views, model.head.layers) == (32, {"flip": True}, [96, 64, 32])
    assert Embedder(under).key["head"] == model.head.sha256 and "head" not in Embedder(loaded).key
    with pytest.raises(ModelError, match="other weights"):
        Embedder(replace(load_model("test_resnet_se.corel"), head=under.head))
    with pytest.raises(ModelError, match="leave those out"):
        Embedder(under, settings=EmbedSettings(pool="gem"))


def test_class_disjoint_never_trains_on_what_it_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm_gam.data.read.draw_synthetic", lambda: draw_synthetic(10))  # of 30, for speed
    command = [
        "--model",
        "test_resnet_gam.corel",
        "--dataset",
        "synthetic",
        "--output",
        str(tmp_path / "h.safetensors"),
    ]
    results = tmp_path / "r.json"
    assert main([*command, *SMALL, "--protocol", "class-disjoint", "--results-file", str(results)]) == 0
    assert "classes that are not held out" in capsys.readouterr().out
    plain, better = json.loads(results.read_text())["results"]
    scored = {entry["class"] for entry in better["per_class"]}
    names = draw_synthetic(2).class_names
    assert scored == {name for name, out in zip(names, published_class_split(names), strict=True) if out}
    assert plain["model"]["head"] is None and better["model"]["head"]["layers"] == [96, 64, 32]


def _without_classifier(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def test_published_with_its_weights(
    tmp_path: Path, hub: LoopbackHub, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "model.safetensors")
    kept = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(checkpoint).items()
    }
    save_file(kept, checkpoint)  # in half the bits, as shipped weights are
    photos = tmp_path / "photos"
    write_class_folders(photos, classes=4, images=10)
    command = ["--model", "test_resnet_gam", "--checkpoint", str(checkpoint), "--data-dir", str(photos)]
    head = tmp_path / "head.safetensors"
    assert main([*command, "--output", str(head), *SMALL, "--img-size", "32"]) == 0
    where = ["test_resnet_gam.corel", "--checkpoint", str(checkpoint), "--head", str(head)]
    assert publish(where) == 0
    repo = "timm-gam/test_resnet_gam.corel"
    loaded = load_model(f"hf-hub:{repo}")
    assert loaded.head is not None
    published, trained = Embedder(loaded).head, read_head(head)
    assert published is not None and published.facts == trained.facts
    assert all(torch.equal(a, trained.state_dict()[name]) for name, a in published.state_dict().items())
    plain = timm.create_model(f"hf-hub:{repo}", pretrained=True, num_classes=0)  # timm alone loads it too
    assert weights_digest(plain.state_dict()) == weights_digest(_without_classifier(loaded.model.state_dict()))
    folder = hub.copy_out("models", repo, tmp_path / "out")
    assert "head.safetensors" in (folder / "README.md").read_text()
    assert load_model(f"local-dir:{folder}").head == folder / "head.safetensors"
    (folder / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read the head"):
        Embedder(load_model(f"local-dir:{folder}"))
    capsys.readouterr()
    assert publish([*where, "--fp16"]) == 2 and "leave out --fp16" in capsys.readouterr().err
    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    assert publish([where[0], "--checkpoint", str(other), "--head", str(head)]) == 2
    assert "trained on other weights" in capsys.readouterr().err


def test_recipes_that_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="legal: whitening"):
        HeadRecipe("triplet")
    with pytest.raises(RecipeError, match="power lies in"):
        HeadRecipe(power=0)
    assert main(["--model", "test_resnet_gam.corel", "--dataset", "synthetic", "--output", str(tmp_path / "h.pt")]) == 2
    assert ".safetensors" in capsys.readouterr().err


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
