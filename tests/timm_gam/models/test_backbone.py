"""Starting from a plain backbone: the same features at step 0, gates that move, and sources that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import timm_gam
from timm_gam.core import CheckpointError, TimmGamError, UnknownModelError
from timm_gam.models import attention_parameters, from_backbone

KINDS = ("gam", "se", "cbam")


def plain(name: str, seed: int = 0, **kwargs: object) -> nn.Module:
    """A plain network whose batch norms look trained (timm's start zeroes every branch, which would hide all)."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "plain.safetensors"
    save_file(plain("resnet18").state_dict(), path)
    return path


def features(model: nn.Module, training: bool, size: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.train(training).forward_features(torch.randn(2, 3, size, size))


@pytest.mark.parametrize(
    ("base", "variant"),
    [("resnet18", f"resnet18_{k}") for k in KINDS]
    + [("resnet50", f"resnet50_{k}") for k in (*KINDS, "gam_g4")]
    + [("test_resnet", f"test_resnet_{k}") for k in KINDS],
)
def test_identity_start_is_the_plain_backbone_bit_for_bit(base: str, variant: str, tmp_path: Path) -> None:
    backbone = plain(base)
    save_file(backbone.state_dict(), tmp_path / "b.safetensors")
    model, report = from_backbone(variant, tmp_path / "b.safetensors")
    for training in (False, True):
        expected = features(backbone, training)
        assert expected.abs().max() > 0
        assert torch.equal(features(model, training), expected)
    assert set(report.missing) <= {n for n in model.state_dict() if ".se." in n}
    assert not report.unexpected
    assert len(report.loaded) == len(backbone.state_dict())


def test_paper_start_scales_the_branches_down(saved: Path) -> None:
    model, _ = from_backbone("resnet18_gam", saved, gate_init="paper")
    expected = features(plain("resnet18"), False)
    error = (features(model, False) - expected).norm() / expected.norm()
    assert error > 0.1


def test_plain_state_dict_meets_identity_gates() -> None:
    backbone = plain("resnet18")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = timm.create_model("resnet18_gam", gate_init="identity")
    model.load_state_dict(backbone.state_dict(), strict=False)
    assert torch.equal(features(model, False), features(backbone.eval(), False))
    for name, tensor in before.items():
        assert torch.equal(backbone.state_dict()[name], tensor), "the caller's tensors are not changed"
    # A whole checkpoint of the variant loads as it is.
    again = timm.create_model("resnet18_gam", gate_init="identity")
    again.load_state_dict(model.state_dict())
    assert torch.equal(features(again, False), features(model, False))


@pytest.mark.parametrize("kind", KINDS)
def test_gates_move_and_every_attention_tensor_gets_gradients(kind: str) -> None:
    model = timm.create_model(f"test_resnet_{kind}", gate_init="identity", num_classes=4, zero_init_last=False)
    start = {name: parameter.detach().clone() for name, parameter in attention_parameters(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen: set[str] = set()
    torch.manual_seed(0)
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen |= {n for n, p in attention_parameters(model).items() if p.grad is not None and p.grad.abs().sum() > 0}
    # A bias that batch norm follows is cancelled by it, in training; the paper's parameter count includes them.
    cancelled = {n for n in start if n.endswith((".spatial.conv1.bias", ".spatial.conv2.bias"))}
    assert seen >= set(start) - cancelled
    moved = {n for n, p in attention_parameters(model).items() if not torch.equal(p, start[n])}
    assert moved >= set(start) - cancelled


def test_initialisation_survives_init_weights() -> None:
    model = timm.create_model("test_resnet_gam", gate_init="identity")
    for parameter in attention_parameters(model).values():
        nn.init.ones_(parameter)
    model.init_weights()
    for name, parameter in attention_parameters(model).items():
        if "channel.fc2" in name or "spatial.bn2" in name:
            assert not parameter.any(), name
    paper = timm.create_model("resnet18_gam")
    weight = paper.layer1[0].se.channel.fc1.weight
    # PyTorch's default for 64 inputs is uniform within 1/8; timm's kaiming_normal would have no such bound.
    assert weight.abs().max() <= 1 / 8
    with pytest.raises(ValueError, match="legal: 'paper', 'identity'"):
        timm.create_model("resnet18_gam", gate_init="open")


def test_class_counts_and_channels(saved: Path) -> None:
    model, report = from_backbone("resnet18_se", saved, num_classes=7)
    assert model.fc.weight.shape == (7, 512)
    assert "fc.weight" in report.missing
    assert "fc.weight" in report.unexpected
    assert "fc.weight" not in report.loaded
    grey, _ = from_backbone("resnet18_se", saved, in_chans=1)
    expected = plain("resnet18").conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(grey.conv1.weight, expected)
    headless, report = from_backbone("resnet18_se", saved, num_classes=0)
    assert report.unexpected == ("fc.weight", "fc.bias") or set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert headless.num_classes == 0


def test_report_reads_on_one_screen(saved: Path) -> None:
    _, report = from_backbone("resnet18_gam", saved)
    text = str(report)
    assert "loaded" in text
    assert "missing" in text
    assert len(text.splitlines()) == 4


def test_local_dir_source(tmp_path: Path) -> None:
    backbone = plain("resnet18", num_classes=5)
    timm.models.save_for_hf(backbone, tmp_path, safe_serialization=True)
    model, _ = from_backbone("resnet18_cbam", f"local-dir:{tmp_path}", num_classes=5)
    assert torch.equal(model.fc.weight, backbone.fc.weight)


def test_sources_that_do_not_fit_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the backbone of resnet34_gam.*layer1.2"):
        from_backbone("resnet34_gam", saved)
    with pytest.raises(CheckpointError, match="not the backbone of resnet50_se"):
        from_backbone("resnet50_se", saved)
    with pytest.raises(CheckpointError, match="no file"):
        from_backbone("resnet18_gam", tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="folder"):
        from_backbone("resnet18_gam", tmp_path)
    with pytest.raises(UnknownModelError, match="near: .*resnet18_gam"):
        from_backbone("resnet18_gm", saved)
    with pytest.raises(TimmGamError, match="no attention layers"):
        from_backbone("resnet18", saved)
    for name in ("weights.pth", "weights.safetensors"):
        torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / name)
        with pytest.raises(CheckpointError, match="pickled PyTorch checkpoint"):
            from_backbone("resnet18_gam", tmp_path / name)
    (tmp_path / "raw.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="pickled"):
        from_backbone("resnet18_gam", tmp_path / "raw.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        from_backbone("resnet18_gam", cut)


def test_exports_match() -> None:
    for name in timm_gam.__all__:
        assert hasattr(timm_gam, name), name
