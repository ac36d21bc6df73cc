"""Weights from every source, and every way in which they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from timm_gam.core import ModelError
from timm_gam.embed import embedding_network
from timm_gam.images import resolve_preprocessing
from timm_gam.models import load_model, weights_digest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet_se", num_classes=11).state_dict(), path)
    return path


def test_random_weights_are_seeded_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_model("test_resnet", pretrained=False, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert first.info.weights.kind == "random"
    assert first.info.weights.reference == "seed 1"
    assert first.info.weights.sha256 == load_model("test_resnet", pretrained=False, seed=1).info.weights.sha256
    assert first.info.weights.sha256 != load_model("test_resnet", pretrained=False, seed=2).info.weights.sha256
    assert not first.model.training


def test_checkpoint_with_another_class_count(checkpoint: Path) -> None:
    loaded = load_model("test_resnet_se", checkpoint=checkpoint)
    assert loaded.info.weights.kind == "checkpoint"
    assert loaded.info.weights.reference == "weights.safetensors"
    assert loaded.info.weights.sha256 == weights_digest(load_file(checkpoint))
    assert loaded.model.num_classes == 11


def test_checkpoint_without_classifier(checkpoint: Path, tmp_path: Path) -> None:
    tensors = {n: t for n, t in load_file(checkpoint).items() if not n.startswith("fc.")}
    headless = tmp_path / "headless.safetensors"  # another file: these tensors are mapped from the first
    save_file(tensors, headless)
    loaded = load_model("test_resnet_se", checkpoint=headless)
    assert loaded.info.weights.sha256 == weights_digest(tensors)


def test_digest_is_of_the_tensors_not_the_file(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    save_file(dict(reversed(tensors.items())), tmp_path / "again.safetensors", metadata={"note": "other bytes"})
    assert weights_digest(load_file(tmp_path / "again.safetensors")) == weights_digest(tensors)
    tensors["fc.bias"][0] += 1e-6
    assert weights_digest(load_file(tmp_path / "again.safetensors")) != weights_digest(tensors)


def test_local_dir(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet_gam", num_classes=6)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.info.architecture == "test_resnet_gam"
    assert loaded.info.weights.sha256 == weights_digest(model.state_dict())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="has no model.safetensors"):
        load_model(f"local-dir:{tmp_path}")


def test_config_of_a_stranger_cannot_name_other_files(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet_gam"), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {"checkpoint_path": "/tmp/evil.pth"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="sets checkpoint_path: refused"):
        load_model(f"local-dir:{tmp_path}")
    for arguments in ({"nonsense": 1}, {"layers": "abc"}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": arguments}))
        with pytest.raises(ModelError, match="cannot be built as its config.json says") as caught:
            load_model(f"local-dir:{tmp_path}")
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not a timm config"):
        load_model(f"local-dir:{tmp_path}")


def test_config_of_a_stranger_cannot_take_all_memory(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["channels"] = [2**16] * 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"its config.json asks for [\d,]{14,} parameters, its file holds 471,783"):
        load_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50_gamm", "no model 'resnet50_gamm'; near: resnet50_gam"),
        ("zzzzzz", "no model 'zzzzzz'"),
        ("resnet50_se.a9_in1k", "no tag 'a9_in1k'; legal: .*a1_in1k"),
        ("seresnet18.corel", "no tag 'corel'; it has no pretrained weights"),
        ("seresnet18", "no pretrained weights; name a checkpoint"),
        ("timm/resnet50", "is no model name; legal: name, name.tag, hf-hub:"),
        ("local-dir:/nowhere", "has no config.json"),
    ],
)
def test_names_that_cannot_be_had(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_checkpoints_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("test_resnet", "test_resnet_gam", "resnet18"):
        with pytest.raises(ModelError, match=f"'weights.safetensors' is not for {name}: .*tensors"):
            load_model(name, checkpoint=checkpoint)
    (tmp_path / "raw.safetensors").write_bytes(pickle.dumps({}))
    torch.save({}, tmp_path / "zip.pth")
    for name in ("raw.safetensors", "zip.pth"):
        with pytest.raises(ModelError, match="is a pickled PyTorch checkpoint; only safetensors"):
            load_model("test_resnet", checkpoint=tmp_path / name)
    with pytest.raises(ModelError, match="no file"):
        load_model("test_resnet", checkpoint=tmp_path / "missing")


def test_unsafe_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "x.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError):
        load_model("test_resnet", checkpoint=tmp_path / "x.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet_gam",
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "mobilenetv3_small_050",
        "resnet18",
        "test_nfnet",
    ],
)
def test_embedding_layers(name: str) -> None:
    model = load_model(name, pretrained=False).model
    size = resolve_preprocessing(model).input_size
    with torch.no_grad():
        x = torch.randn(2, *size)
        pooled = embedding_network(model)(x)
        assert pooled.shape == (2, model.num_features)
        before_logits = embedding_network(model, "pre_logits")(x)
        assert before_logits.shape == (2, getattr(model, "head_hidden_size", model.num_features))
        if pooled.shape == before_logits.shape:
            torch.testing.assert_close(pooled, before_logits)
        torch.testing.assert_close(model.get_classifier()(before_logits), model(x))


def test_preprocessing_is_the_models_own_unless_overridden() -> None:
    model = load_model("test_resnet", pretrained=False).model
    own = resolve_preprocessing(model)
    assert own.input_size == (3, 160, 160)
    assert own.mean == (0.5, 0.5, 0.5)
    changed = resolve_preprocessing(model, img_size=64, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
    assert (changed.input_size, changed.crop_pct) == ((3, 64, 64), 1.0)
    from PIL import Image

    out = changed.transform()(Image.new("RGB", (30, 50), (255, 255, 255)))
    assert out.shape == (3, 64, 64)
    torch.testing.assert_close(out, torch.ones(3, 64, 64))
    for wrong in ({"crop_pct": 0.0}, {"crop_pct": 1.5}, {"interpolation": "magic"}, {"std": (1, 0, 1)}):
        with pytest.raises(ModelError, match="legal|above 0"):
            resolve_preprocessing(model, **wrong)
    vit = load_model("test_vit", pretrained=False).model
    with pytest.raises(ModelError, match="fixed at 160 x 160"):
        resolve_preprocessing(vit, img_size=96)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": "abc"},
        {"mean": [0.5]},
        {"std": [1.0, 0.0, 1.0]},
        {"interpolation": "magic"},
        {"input_size": [3, "a", 2]},
        {"input_size": "wide"},
        {"input_size": [3, 2**40, 2**40]},
        {"crop_pct": "wide"},
    ],
    ids=str,
)
def test_data_config_of_a_stranger(wrong: dict[str, object], tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= wrong
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        resolve_preprocessing(load_model(f"local-dir:{tmp_path}").model)
    assert "\n" not in str(caught.value)


def test_real_weights_load_completely(mobilenetv2_weights: Path) -> None:
    loaded = load_model("mobilenetv2_100", checkpoint=mobilenetv2_weights)
    assert loaded.model.num_classes == 0
    assert loaded.info.num_params == sum(p.numel() for p in loaded.model.parameters())
    expected = load_file(mobilenetv2_weights)
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items() if name in expected
    )


def test_a_file_beside_the_config_it_was_published_with_is_prepared_by_it(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet_se", num_classes=4)
    config = {"input_size": (3, 48, 48), "crop_pct": 0.5}
    timm.models.save_for_hf(
        network, tmp_path, {"pretrained_cfg": {**network.pretrained_cfg, **config}}, safe_serialization=True
    )
    loaded = load_model("test_resnet_se", checkpoint=tmp_path / "model.safetensors")
    assert loaded.knows_preprocessing
    used = resolve_preprocessing(loaded.model)
    assert (used.input_size, used.crop_pct) == ((3, 48, 48), 0.5)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert not load_model("test_resnet_se", checkpoint=tmp_path / "other.safetensors").knows_preprocessing
