"""Tensors that timm would load are loaded: wrapped, of older configs, other channels and sizes; others are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timm_gam.core import CheckpointError, ModelError, RefusedError
from timm_gam.images import resolve_preprocessing
from timm_gam.models import fit_tensors, from_backbone, load_model, weights_digest
from timm_gam.train import Recipe, start_model

RECORDED = "needs a timm that records what a network was built with"


def network(name: str = "test_resnet", **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **arguments)


def saved(folder: Path, model: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> str:
    """A model as timm saves it, its config changed; the name to load it by."""
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    config = folder / "config.json"
    config.write_text(json.dumps(change(json.loads(config.read_text()))))
    return f"local-dir:{folder}"


def loads_as(name: str, model: nn.Module, **arguments: Any) -> nn.Module:
    """Loaded by us and by timm: both times the weights of `model`."""
    loaded = load_model(name, **arguments)
    assert loaded.info.weights.sha256 == weights_digest(model.state_dict())
    if name.startswith("local-dir:"):
        theirs = timm.create_model(name, pretrained=True)
        assert weights_digest(theirs.state_dict()) == loaded.info.weights.sha256
    return loaded.model


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrapped_networks(prefix: str, tmp_path: Path) -> None:
    model, file = network(), tmp_path / "wrapped.safetensors"
    save_file({prefix + name: tensor for name, tensor in model.state_dict().items()}, file)
    loads_as("test_resnet", model, checkpoint=file)
    started, _ = from_backbone("test_resnet_gam", file, num_classes=4)
    assert torch.equal(started.fc.weight, model.fc.weight)
    trained, start = start_model(Recipe(model="test_resnet", start=str(file)), 4)
    assert start.kind == "checkpoint"
    assert weights_digest(trained.state_dict()) == weights_digest(model.state_dict())


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The form of timm's configs before 2023."""
    known = {k: v for k, v in config["pretrained_cfg"].items() if k in ("input_size", "mean", "std", "classifier")}
    return {"architecture": config["architecture"], "num_classes": 4, "labels": list("abcd"), **known}


def test_flat_configs(tmp_path: Path) -> None:
    model = loads_as(saved(tmp_path, network(), flat), network())
    assert resolve_preprocessing(model).input_size == (3, 160, 160)


def test_foreign_keys_of_a_config_are_passed_over(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "pretrained_cfg": {**config["pretrained_cfg"], "from_a_later_release": 1, "url": "x"}}

    assert load_model(saved(tmp_path, network(), change)).model.num_classes == 4


@pytest.mark.parametrize("by", ["model_args", "input_size"])
def test_networks_in_grey(by: str, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        cfg = {**config["pretrained_cfg"], "input_size": [3 if by == "model_args" else 1, 160, 160]}
        arguments = {"in_chans": 1} if by == "model_args" else {}
        return {**config, "pretrained_cfg": {**cfg, "mean": [0.2, 0.4, 0.9]}, "model_args": arguments}

    if by == "model_args":
        pytest.importorskip("timm.models._input", reason=RECORDED)
    model = loads_as(saved(tmp_path, network(in_chans=1), change), network(in_chans=1))
    preprocessing = resolve_preprocessing(model, img_size=32)
    assert (preprocessing.input_size, preprocessing.mean) == ((1, 32, 32), (0.5,)), "the mean, as in timm's loaders"
    from PIL import Image

    grey = preprocessing.transform()(Image.new("RGB", (40, 40), (255, 0, 0)))
    assert grey.shape == (1, 32, 32)
    torch.testing.assert_close(grey.mean(), torch.tensor((76 / 255 - 0.5) / preprocessing.std[0]))  # ITU-R 601 luma


def test_sizes_of_vision_transformers(tmp_path: Path) -> None:
    pytest.importorskip("timm.models._input", reason=RECORDED)
    small = network("test_vit", img_size=96, dynamic_img_size=False)
    assert resolve_preprocessing(loads_as(saved(tmp_path / "96", small), small)).input_size == (3, 96, 96)

    def without_arguments(config: dict[str, Any]) -> dict[str, Any]:  # as timm wrote them before 1.0.27
        return {k: v for k, v in config.items() if k != "model_args"}

    old = loads_as(saved(tmp_path / "old", small, without_arguments), small)
    assert resolve_preprocessing(old).input_size == (3, 96, 96)
    dynamic = network("test_vit", dynamic_img_size=True, img_size=96)
    model = loads_as(saved(tmp_path / "dynamic", dynamic), dynamic)
    assert resolve_preprocessing(model, img_size=64).input_size == (3, 64, 64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_positions_are_resized_and_older_names_renamed_by_timms_filters() -> None:
    small, large = network("test_vit", img_size=96), network("test_vit")
    fit = fit_tensors(small.state_dict(), large)
    assert fit.complete
    assert fit.tensors["pos_embed"].shape == large.state_dict()["pos_embed"].shape
    convnext = network("test_convnext")
    older = {name.replace("head.fc.", "head."): tensor for name, tensor in convnext.state_dict().items()}
    older = {name.replace("head.norm.", "norm."): tensor for name, tensor in older.items()}
    assert older.keys() != convnext.state_dict().keys()
    assert fit_tensors(older, convnext).complete


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    model = network()
    tensors = dict(model.state_dict())
    tensors["more"], tensors["fc.bias"] = torch.zeros(1), torch.zeros(5)
    del tensors["bn1.weight"], tensors["bn1.num_batches_tracked"]
    fit = fit_tensors(tensors, model)
    assert (fit.missing, fit.unexpected, fit.misshapen) == (("bn1.weight",), ("more",), ("fc.bias",))
    rest = fit.but_for(["fc.", "bn1."])
    assert (rest.missing, rest.unexpected, rest.misshapen) == ((), ("more",), ())
    assert "fc.bias" not in rest.tensors
    assert (
        str(fit)
        == "1 tensors missing (bn1.weight); 1 tensors unexpected (more); 1 tensors of another shape or kind (fc.bias)"
    )
    save_file({f"other.{n}": t for n, t in model.state_dict().items()}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="is not for test_vit: .* missing .* unexpected"):
        load_model("test_vit", checkpoint=tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is not for test_vit: "):
        start_model(Recipe(model="test_vit", start=str(tmp_path / "x.safetensors")), 4)


def test_channels_are_adapted_by_timms_rule() -> None:
    tensors: dict[str, Tensor] = network().state_dict()
    grey = network(in_chans=1)
    fit = fit_tensors(tensors, grey)
    assert fit.complete
    torch.testing.assert_close(fit.tensors["conv1.0.weight"], tensors["conv1.0.weight"].sum(1, keepdim=True))
    assert fit_tensors(tensors, grey, adapt_channels=False).misshapen == ("conv1.0.weight",)


def test_publishing_takes_a_wrapped_checkpoint(tmp_path: Path) -> None:
    from hub.model.trained import read_trained_model

    model, file = network("test_resnet_se"), tmp_path / "wrapped.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, file)
    trained = read_trained_model("test_resnet_se.mine", file)
    assert trained.sha256 == weights_digest(model.state_dict()) != weights_digest(load_file(file))


@pytest.mark.parametrize(
    "change",
    [
        {"model_args": {"in_chans": False}},
        {"model_args": {"features_only": 2}},
        {"pretrained_cfg": {"classifier": 3, "first_conv": {"a": 1}}},
        {"pretrained_cfg": {"first_conv": ["conv1", None]}},
    ],
    ids=str,
)
def test_configs_of_strangers_give_one_line_or_a_network(change: dict[str, Any], tmp_path: Path) -> None:
    for name in ("test_resnet", "test_vit"):
        folder = tmp_path / name
        asked = saved(folder, network(name), lambda c: {**c, **{k: {**c.get(k, {}), **v} for k, v in change.items()}})
        try:
            load_model(asked)
        except ModelError as error:
            assert "\n" not in str(error)


def test_quantised_weights_and_classifiers_of_no_shape_are_refused(tmp_path: Path) -> None:
    from hub.model.trained import read_trained_model

    for name, tensor in (
        ("layer1.0.conv1.weight", torch.zeros(32, 32, 3, 3, dtype=torch.int8)),
        ("bn1.bias", torch.zeros(32, dtype=torch.complex64)),
        ("fc.weight", torch.zeros(())),
    ):
        save_file({**network().state_dict(), name: tensor}, tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match=f"of another shape or kind \\({name}\\)|{name}"):
            load_model("test_resnet", checkpoint=tmp_path / "x.safetensors")
        with pytest.raises(RefusedError, match=name):
            read_trained_model("test_resnet.mine", tmp_path / "x.safetensors")
    half = {name: tensor.half() for name, tensor in network().state_dict().items() if tensor.is_floating_point()}
    save_file(half, tmp_path / "half.safetensors")
    assert load_model("test_resnet", checkpoint=tmp_path / "half.safetensors").model.fc.weight.dtype == torch.float32
