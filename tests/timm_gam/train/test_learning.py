"""Attention is no decoration: its gates move, each of its tensors gets a gradient, and it steps ten times as far."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import timm_gam
from tests.timm_gam.train.helpers import metrics, small_recipe, train_quietly
from timm_gam.core import RecipeError
from timm_gam.models import attention_layers, read_safetensors
from timm_gam.train import create_objective, create_optimization, set_training_mode
from timm_gam.train.step.optimizer import freeze, parameter_groups

VARIANTS = ["test_resnet_gam", "test_resnet_se", "test_resnet_cbam"]

# A bias right before a batch norm has no effect (the norm subtracts it), so its gradient is rounding.
WITHOUT_EFFECT = (".spatial.conv1.bias", ".spatial.conv2.bias")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 64, 64, generator=generator), torch.arange(8) % 4


def gates(model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """What each attention layer multiplies its input by."""
    seen: list[torch.Tensor] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append((output / inputs[0]).nan_to_num(0.0).detach())

    hooks = [layer.register_forward_hook(note) for _, layer in attention_layers(model)]
    with torch.no_grad():
        model.eval()(pixels)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("gate_init", ["paper", "identity"])
@pytest.mark.parametrize("name", VARIANTS)
def test_gates_move_and_every_attention_tensor_has_a_gradient(name: str, gate_init: str) -> None:
    torch.manual_seed(0)
    # As after pretraining: timm starts a new network with every residual branch at zero, and its gates with nothing.
    model = timm.create_model(name, num_classes=4, gate_init=gate_init, zero_init_last=False)
    recipe = small_recipe(model=name, lr=0.01, batch_size=8)
    objective = create_objective(model, recipe, 4)
    optimizer, scheduler = create_optimization(objective, recipe, updates_per_epoch=10)
    pixels, labels = batch()
    before = gates(model, pixels)
    reached: set[str] = set()
    for update in range(4):
        set_training_mode(objective)
        optimizer.zero_grad()
        objective(pixels, labels).backward()
        for key, parameter in timm_gam.attention_parameters(model).items():
            assert parameter.grad is not None, key
            if parameter.grad.abs().max() > 0:
                reached.add(key)
        optimizer.step()
        scheduler.step_update(update + 1)
    expected = {key for key in timm_gam.attention_parameters(model) if not key.endswith(WITHOUT_EFFECT)}
    assert expected <= reached
    for was, now in zip(before, gates(model, pixels), strict=True):
        assert (was - now).abs().max() > 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_attention_steps_ten_times_as_far(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).double()
    recipe = small_recipe(model=name, opt="momentum", momentum=0.0, weight_decay=0.0, lr=1e-3, warmup_epochs=2)
    optimizer, scheduler = create_optimization(model, recipe, updates_per_epoch=3)
    attention = timm_gam.attention_parameters(model)
    assert set(attention.values()) < set(model.parameters())
    for update in range(5):  # through warmup and decay
        scheduler.step_update(update)
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        steps = {key: (before[key] - p).detach().double() for key, p in model.named_parameters()}
        others = torch.cat([step.flatten() for key, step in steps.items() if key not in attention]).mean()
        for key, step in steps.items():
            assert step.mean() == pytest.approx(float(others) * (10 if key in attention else 1), rel=1e-6), key


def test_the_scale_is_an_option_and_biases_and_norms_do_not_decay() -> None:
    model = timm.create_model("test_resnet_gam", num_classes=4)
    groups = parameter_groups(model, small_recipe(attention_lr_scale=3.0, weight_decay=0.1))
    assert sorted((g["lr_scale"], g["weight_decay"]) for g in groups) == [(1, 0), (1, 0.1), (3, 0), (3, 0.1)]
    assert all(p.ndim > 1 for g in groups if g["weight_decay"] for p in g["params"])
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())


def test_freezing_keeps_values_and_batch_norm_statistics(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gam", num_classes=4, zero_init_last=False)
    before = model.state_dict()
    save_file(before, tmp_path / "start.safetensors")
    recipe = small_recipe(data_dir=str(photos), start=str(tmp_path / "start.safetensors"), freeze=("backbone",), lr=0.1)
    after = read_safetensors(train_quietly(recipe, tmp_path / "run").last)
    attention = timm_gam.attention_parameters(model)
    for key in dict(model.named_parameters()):
        moved = (before[key] - after[key]).abs().max() > 1e-6
        frozen = key not in attention and not key.startswith("fc.")
        assert moved != frozen or key.endswith(WITHOUT_EFFECT), key
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(
        after["layer1.0.se.spatial.bn1.running_mean"], before["layer1.0.se.spatial.bn1.running_mean"]
    )


def test_freezing_nothing_known_or_everything_is_refused() -> None:
    model = timm.create_model("test_resnet_gam", num_classes=4)
    with pytest.raises(RecipeError, match="legal: backbone, conv1"):
        freeze(model, ["layer9"])
    with pytest.raises(RecipeError, match="nothing to train"):
        freeze(model, ["conv1", "bn1", "layer", "fc"])


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
        data_dir=str(photos),
        epochs=25,
        opt="adamw",
        lr=3e-3,
        attention_lr_scale=1.0,
        scale=(0.7, 1.0),
        color_jitter=0.0,
    )
    folder = train_quietly(recipe, tmp_path / "run")
    rows = metrics(folder)
    assert float(rows[-1]["train_loss"]) < 0.6 * float(rows[0]["train_loss"])


@pytest.mark.parametrize("changes", [
    {"loss": "arcface", "batch_size": 8}, {"loss": "proxy-anchor", "batch_size": 8, "ema_decay": 0.5}
])  # fmt: skip
def test_metric_learning_losses_train_and_leave_a_classifier_of_proxies(
    changes: dict, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pytorch_metric_learning")
    recipe = small_recipe(data_dir=str(photos), per_class=2, opt="adamw", lr=1e-3, **changes)
    folder = train_quietly(recipe, tmp_path / "run")
    tensors, state = read_safetensors(folder.last), read_safetensors(folder.state)
    proxies = state.get("objective.loss.proxies", state.get("objective.loss.W"))
    proxies = proxies if proxies.shape == (4, 96) else proxies.t()
    torch.testing.assert_close(tensors["fc.weight"], torch.nn.functional.normalize(proxies))
    assert not tensors["fc.bias"].any()
