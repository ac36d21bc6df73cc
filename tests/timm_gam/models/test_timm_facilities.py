"""Every timm facility on every variant, on the real thing."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._manipulate import group_parameters
from torch import nn

import timm_gam  # noqa: F401  registers the models
from timm_gam.core import CheckpointError
from timm_gam.models import attention_layers

BASES = ("resnet18", "resnet34", "resnet50", "resnet101", "test_resnet")
VARIANTS = sorted([f"{base}_{kind}" for base in BASES for kind in ("gam", "se", "cbam")] + ["resnet50_gam_g4"])
TINY = [name for name in VARIANTS if name.startswith("test_")]
RUN = [*TINY, "resnet50_gam_g4"]
"""Run on real tensors: both kinds of block, which `test_resnet` has, and each attention. Deeper ones repeat them."""
SMALL = {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}  # of the one that is not tiny
PARAMETERS = {
    "resnet18_se": 11_779_624,
    "resnet18_cbam": 11_777_352,
    "resnet18_gam": 16_049_672,
    "resnet34_se": 21_960_416,
    "resnet34_cbam": 21_956_456,
    "resnet34_gam": 29_672_920,
    "resnet101_se": 49_326_872,
    "resnet101_cbam": 49_295_628,
    "resnet101_gam": 281_845_736,
    "test_resnet_se": 479_056,
    "test_resnet_cbam": 476_264,
    "test_resnet_gam": 780_052,
    "resnet50_se": 28_088_024,
    "resnet50_cbam": 28_073_576,
    "resnet50_gam": 151_368_424,
    "resnet50_gam_g4": 58_944_232,
}
SIZE = 64

each_variant = pytest.mark.parametrize("name", VARIANTS)
each_kind = pytest.mark.parametrize("name", RUN)


def build(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {} if name in TINY else SMALL
    return timm.create_model(name, **{"num_classes": 10, "zero_init_last": False, **sizes, **kwargs}).eval()


@pytest.fixture(scope="module", params=RUN)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each of them in turn, built once for all the tests that take it; they must leave it as it was."""
    return build(request.param)


def images(channels: int = 3, batch: int = 1, size: int = SIZE) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_every_variant_is_registered() -> None:
    assert sorted(timm.list_models(module="attention_resnet")) == VARIANTS


def test_se_is_timms_own() -> None:
    ours, theirs = timm.create_model("resnet50_se", device="meta"), timm.create_model("seresnet50", device="meta")
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


@each_variant
def test_meta_device_and_parameter_count(name: str) -> None:
    model = timm.create_model(name, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.num_classes == 1000
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS[name]
    assert f"{count:,}" in (Path(__file__).parents[3] / "MODEL_CARD.md").read_text(), "the card gives the same number"


def test_shapes_classifier_and_pooling(model: nn.Module) -> None:
    assert model(images()).shape == (1, 10)
    assert next(attention_layers(model), None) is not None
    assert isinstance(model.get_classifier(), nn.Linear)
    whole = copy.copy(model)
    whole._modules = dict(model._modules)
    whole.reset_classifier(0)
    assert whole(images()).shape == (1, model.num_features)
    whole.reset_classifier(3, "max")
    assert whole(images()).shape == (1, 3)
    whole.reset_classifier(0, "")
    assert whole(images()).shape == (1, model.num_features, 2, 2)


@each_kind
def test_created_without_classifier_or_pooling(name: str) -> None:
    meta = images().to("meta")
    headless = timm.create_model(name, num_classes=0, device="meta").eval()
    assert headless(meta).shape == (1, headless.num_features)
    assert timm.create_model(name, num_classes=0, global_pool="", device="meta").eval()(meta).ndim == 4
    assert timm.create_model(name, in_chans=1, device="meta").eval()(images(1).to("meta")).shape == (1, 1000)
    dropping = timm.create_model(name, drop_path_rate=0.2, device="meta")
    assert any(type(module).__name__ == "DropPath" for module in dropping.modules())
    assert dropping.train()(images(batch=2).to("meta")).shape == (2, 1000)


@each_kind
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(name: str, stride: int) -> None:
    model = timm.create_model(name, output_stride=stride, num_classes=0, global_pool="", device="meta").eval()
    assert model(images().to("meta")).shape[-1] == SIZE // stride


@each_variant
def test_features_only_in_all_forms(name: str) -> None:
    x = images().to("meta")
    for form in ("list", "dict", "hook", "fx", "getter") if name in RUN else ("list",):
        out = (1, 2, 3, 4)
        model = timm.create_model(name, features_only=True, feature_cls=form, out_indices=out, device="meta").eval()
        maps = model(x)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        assert [m.shape[-1] for m in maps] == [SIZE // r for r in (4, 8, 16, 32)], form
        assert [m.shape[1] for m in maps] == model.feature_info.channels(), form


@pytest.mark.parametrize("name", TINY)
def test_features_only_gives_the_values_of_the_model(name: str, tmp_path: Path) -> None:
    whole = build(name)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    expected = whole.forward_features(images())
    for form in ("list", "dict", "hook", "fx", "getter"):
        features = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "whole.safetensors")},
            features_only=True,
            feature_cls=form,
            out_indices=(4,),
        ).eval()
        maps = features(images())
        torch.testing.assert_close(next(iter(maps.values())) if isinstance(maps, dict) else maps[0], expected)


def test_forward_intermediates(model: nn.Module) -> None:
    final, maps = model.forward_intermediates(images())
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
    torch.testing.assert_close(final, model.forward_features(images()))
    torch.testing.assert_close(maps[-1], final)


def test_channels_last_and_low_precision(model: nn.Module) -> None:
    expected = model(images())
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images().to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-4)
    model.to(memory_format=torch.contiguous_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(images())
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_low_precision(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    out = model(images().to(dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


def test_scripted_and_pickled_copies_agree(model: nn.Module) -> None:
    expected = model(images())
    torch.testing.assert_close(scripted(model)(images()), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images()), expected)
    assert torch.equal(copy.deepcopy(model)(images()), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch calls its own scripting deprecated
def scripted(model: nn.Module) -> torch.jit.ScriptModule:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model)


def test_export(model: nn.Module) -> None:
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_compile_captures_one_whole_graph(model: nn.Module) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="the default compiler backend needs a C++ compiler")
@pytest.mark.parametrize("name", ["test_resnet_gam"])
def test_compile_with_the_default_backend(name: str) -> None:
    """To the end of the first stage, which has every kind of layer: a compiler takes a second for each kernel."""
    import warnings

    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        model = build(name, num_classes=None, features_only=True, out_indices=(1,))
        torch.testing.assert_close(torch.compile(model)(images()), model(images()), rtol=1e-4, atol=1e-4)


@each_variant
def test_parameter_groups(name: str) -> None:
    model = timm.create_model(name, device="meta")
    for coarse in (False, True):
        grouped = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sorted(n for group in grouped.values() for n in group) == sorted(n for n, _ in model.named_parameters())


@each_kind
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build(name, num_classes=3).train()
        model.set_grad_checkpointing(checkpointing)
        model(images(batch=2)).sum().backward()
        return {n: p.grad for n, p in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, msg=key)


def test_local_dir_round_trip_is_bit_equal(model: nn.Module, tmp_path: Path) -> None:
    sizes = None if model.num_features == 96 else SMALL
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, model_args=sizes)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.num_classes == 10
    expected = model.state_dict()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def saved(tmp_path: Path, name: str = "test_resnet_gam") -> Path:
    path = tmp_path / "whole.safetensors"
    classes = timm.get_pretrained_cfg("test_resnet_gam").num_classes  # timm keeps a classifier of that size only
    save_file(timm.create_model(name, num_classes=classes).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_classes": 5}, {"num_classes": 0}, {"features_only": True}, {"in_chans": 1}], ids=str
)
def test_whole_checkpoint_loads_everywhere(kwargs: dict[str, object], tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = timm.create_model("test_resnet_gam", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)
    weight = next(t for n, t in model.state_dict().items() if "layer1" in n and n.endswith("se.channel.fc1.weight"))
    assert torch.equal(weight, load_file(path)["layer1.0.se.channel.fc1.weight"])


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"num_classes": 0}, {"features_only": True}], ids=str)
@pytest.mark.parametrize("damage", ["missing", "shape", "other attention", "plain"])
def test_checkpoint_that_does_not_fit_never_loads(kwargs: dict[str, object], damage: str, tmp_path: Path) -> None:
    tensors = load_file(saved(tmp_path))
    if damage == "missing":
        del tensors["layer3.0.se.spatial.conv2.weight"]
    elif damage == "shape":
        tensors["layer3.0.se.spatial.conv2.weight"] = torch.zeros(4, 4, 7, 7)
    else:
        other = "test_resnet_cbam" if damage == "other attention" else "test_resnet"
        tensors = dict(timm.create_model(other).state_dict())
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"test_resnet_gam: \d+ tensors .*\.se\..*from_backbone"):
        timm.create_model("test_resnet_gam", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)
