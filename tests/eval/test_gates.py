"""The audit of gates: constants are found to be constants, and what is no gate is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.gates import main
from tests.helpers import write_class_folders


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_class_folders(tmp_path_factory.mktemp("gates"), classes=3, images=8, side=32))


def test_identity_gates_are_constants(photos: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    import timm_gam
    from timm_gam.models import load_model

    plain = tmp_path / "plain.safetensors"
    save_file(load_model("test_resnet.corel").model.state_dict(), plain)
    model, _ = timm_gam.from_backbone("test_resnet_cbam", plain)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "cbam.safetensors")
    out = tmp_path / "gates.json"
    weights = str(tmp_path / "cbam.safetensors")
    options = ["--model", "test_resnet_cbam", "--checkpoint", weights, "--data-dir", photos]
    assert main([*options, "--results-file", str(out)]) == 0
    audit = json.loads(out.read_text())
    assert audit["images"] == audit["queries"] == 12
    assert len(audit["layers"]) == 4
    for layer in audit["layers"]:
        assert layer["image"] == pytest.approx(0, abs=1e-3)
    assert audit["map"]["frozen"] == pytest.approx(audit["map"]["own"], abs=1e-3)
    assert audit["map"]["shuffled"] == pytest.approx(audit["map"]["own"], abs=1e-3)


def test_trained_gates_use_the_image(photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "test_resnet_gam.corel", "--data-dir", photos]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split()[-1]) for line in lines if line.startswith("layer")]
    assert len(shares) == 4
    assert max(shares) > 5
    assert "mAP of 12 other images" in lines[-1]


def test_gates_of_branches_that_are_zero_say_why_they_are_unknown(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm
    from safetensors.torch import save_file

    weights = tmp_path / "untrained.safetensors"
    save_file(timm.create_model("test_resnet_se").state_dict(), weights)
    options = ["--model", "test_resnet_se", "--checkpoint", str(weights), "--data-dir", photos]
    assert main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines if line.startswith("layer")] == [["-"] * 4] * 4
    assert any(line.startswith("- : ") and "zero in every image" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "test_resnet.corel"), "no gate layer"),
        (("--model", "test_resnet_gam.corel", "--images", "2"), "no two of a class"),
    ],
)
def test_refusals(photos: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str) -> None:
    assert main([*options, "--data-dir", photos]) == 2
    assert said in capsys.readouterr().err


def test_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=1, images=8, side=32)
    assert main(["--model", "test_resnet_gam.corel", "--data-dir", str(photos)]) == 2
    assert "every ranking is right" in capsys.readouterr().err


def test_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "test_resnet_gam.corel"])
    assert "--data-dir" in capsys.readouterr().err
