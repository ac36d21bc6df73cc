"""Exported files against the eager model, by runtimes that share nothing with it, and every way to fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import timm_gam.export.folder as export_folder
import timm_gam.export.formats as export_formats
from tests.processes import start_command, wait_until_said
from timm_gam.core import ExportError, file_sha256
from timm_gam.embed import Embedder, Head, HeadFacts, embedding_network
from timm_gam.export import export_model
from timm_gam.export.__main__ import main
from timm_gam.images import resolve_preprocessing
from timm_gam.models import LoadedModel, load_model

ROOT = Path(__file__).resolve().parents[3]
BATCHES = (1, 3, 5)


def export(out: Path, *arguments: object) -> int:
    return main([*(str(a) for a in arguments), "--output", str(out)])


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text())


def onnx_outputs(folder: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["embedding"], {"images": x.numpy()})[0])


def pixels(count: int, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def gam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped GAM weights, as an ONNX file and a torch.export program."""
    out = tmp_path_factory.mktemp("export") / "gam"
    assert export(out, "test_resnet_gam", "--format", "onnx", "torch") == 0
    return out


def test_files_give_the_models_embeddings_at_any_batch_size(gam: Path) -> None:
    network = embedding_network(load_model("test_resnet_gam").model)
    program = torch.export.load(gam / "model.pt2").module()
    for count in BATCHES:
        x = pixels(count)
        with torch.no_grad():
            expected = network(x)
            torch.testing.assert_close(program(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(onnx_outputs(gam, x), expected, rtol=0, atol=1e-5)


def test_the_document_says_what_the_files_are(gam: Path) -> None:
    content = facts(gam)
    loaded = load_model("test_resnet_gam")
    model = onnx.load(gam / "model.onnx")
    assert content["weights"]["sha256"] == loaded.info.weights.sha256
    assert content["output"] == {
        "name": "embedding", "shape": ["batch", 96], "dtype": "float32", "layer": "pooled", "unit_length": False,
    }  # fmt: skip
    batch, *size = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [side.dim_value for side in size] == content["input"]["shape"][1:] == [3, 64, 64]
    for entry in content["files"]:
        assert file_sha256(gam / entry["file"]) == entry["sha256"]
        assert 0 < entry["deviation"]["relative"] < 1e-5
    assert content["files"][0]["opset"] == model.opset_import[0].version
    assert {path.name for path in gam.iterdir()} == {"export.json", "model.onnx", "model.pt2"}


def test_batch_norms_are_folded_and_no_path_of_this_machine_is_told(gam: Path) -> None:
    assert not {node.op_type for node in onnx.load(gam / "model.onnx").graph.node} & {"BatchNormalization"}
    assert str(ROOT).encode() not in (gam / "model.onnx").read_bytes()


def test_the_documented_example_needs_no_torch_and_gives_our_embeddings(gam: Path, tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs/EXPORT.md").read_text(), re.DOTALL)[0]
    (tmp_path / "search.py").write_text(example)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, size in zip(paths, ((90, 120, 3), (201, 67, 3), (64, 64, 3)), strict=True):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).resize(size[1::-1]).save(path)
    environment = {**os.environ, "PYTHONPATH": str(without_torch(tmp_path))}
    done = subprocess.run(
        [sys.executable, "search.py", gam, *paths], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = load_model("test_resnet_gam")
    transform = resolve_preprocessing(loaded.model).transform()
    with torch.no_grad():
        x = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        ours = nn.functional.normalize(embedding_network(loaded.model)(x))
    np.testing.assert_allclose(json.loads(done.stdout), ours @ ours.T, atol=1.1e-4)


def without_torch(tmp_path: Path) -> Path:
    """A folder that, on the path, makes `import torch` and `import timm` fail."""
    for name in ("torch", "timm"):
        (tmp_path / "path").mkdir(exist_ok=True)
        (tmp_path / "path" / f"{name}.py").write_text(f"raise ImportError('{name} is not to be used')")
    return tmp_path / "path"


@pytest.mark.parametrize("name", ["test_resnet_cbam", "test_vit", "test_convnext"])
def test_other_models_of_ours_and_of_timm(name: str, tmp_path: Path) -> None:
    loaded = load_model(name, pretrained=False)
    before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
    content = export_model(loaded, tmp_path / "out")
    side = content["input"]["shape"][-1]
    with torch.no_grad():
        expected = embedding_network(loaded.model)(pixels(4, side))
    torch.testing.assert_close(onnx_outputs(tmp_path / "out", pixels(4, side)), expected, rtol=1e-4, atol=1e-5)
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not loaded.model.training


def test_logits_and_unit_length(tmp_path: Path) -> None:
    loaded = load_model("test_resnet_se")
    assert export(tmp_path / "logits", "test_resnet_se", "--format", "torch", "--layer", "logits") == 0
    assert export(tmp_path / "unit", "test_resnet_se", "--format", "torch", "--normalize", "--img-size", "48") == 0
    logits = torch.export.load(tmp_path / "logits" / "model.pt2").module()(pixels(3))
    with torch.no_grad():
        torch.testing.assert_close(logits, loaded.model(pixels(3)))
    unit = torch.export.load(tmp_path / "unit" / "model.pt2").module()(pixels(3, 48))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    assert facts(tmp_path / "logits")["output"]["name"] == "logits"
    assert facts(tmp_path / "unit")["output"]["unit_length"] is True


def test_a_head_and_its_views_are_exported(tmp_path: Path, capsys) -> None:
    loaded = load_model("test_resnet_se")
    views = {"flip": True, "scales": [1.0, 0.7]}
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(16, 96, generator=rng), torch.randn(8, 16, generator=rng)]
    of = HeadFacts(loaded.info.weights.sha256, "pooled", "proxy-anchor", "drawn numbers", views, power=0.5)
    Head(of, torch.full((96,), 0.1), weights, [torch.zeros(16), torch.ones(8)]).save(head := tmp_path / "h.safetensors")
    assert export(tmp_path / "with", "test_resnet_se", "--head", head, "--format", "onnx", "torch") == 0
    with torch.no_grad():
        expected = Embedder(replace(loaded, head=head)).network()(pixels(3))
    torch.testing.assert_close(onnx_outputs(tmp_path / "with", pixels(3)), expected, atol=1e-5, rtol=1e-4)
    program = torch.export.load(tmp_path / "with" / "model.pt2").module()(pixels(3))
    torch.testing.assert_close(program, expected, atol=1e-5, rtol=1e-4)
    output = facts(tmp_path / "with")["output"]
    assert output["shape"] == ["batch", 8] and output["unit_length"] is True and output["views"] == views
    assert output["head"]["layers"] == [96, 16, 8]
    assert export(tmp_path / "other", "test_resnet_gam", "--head", head) == 2
    assert "trained on other weights" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_large_weights_lie_beside_the_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "_INLINE_BYTES", 1000)
    entry = export_model(load_model("test_resnet_se"), tmp_path / "out")["files"][0]
    assert entry["data_sha256"] == file_sha256(tmp_path / "out" / entry["data_file"])
    (tmp_path / "out").rename(tmp_path / "moved")
    assert onnx_outputs(tmp_path / "moved", pixels(3)).shape == (3, 96)


def test_aoti_package(tmp_path: Path) -> None:
    assert export(tmp_path / "out", "test_resnet_se", "--format", "aoti") == 0
    network = torch._inductor.aoti_load_package(str(tmp_path / "out" / "model.aoti.pt2"))
    for count in BATCHES:
        with torch.no_grad():
            expected = embedding_network(load_model("test_resnet_se").model)(pixels(count))
        torch.testing.assert_close(network(pixels(count)), expected, rtol=0, atol=1e-5)


class DependsOnBatch(nn.Module):
    """What no exporter can give a dynamic batch: a different computation for each batch size."""

    num_features = 3

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x[: int(x.sum())] if x.sum() > 1e9 else x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x.mean((2, 3))


def test_a_model_that_cannot_be_traced_is_named_in_one_line(tmp_path: Path) -> None:
    info = load_model("test_resnet_se", pretrained=False).info
    preprocessing = resolve_preprocessing(load_model("test_resnet_se", pretrained=False).model)
    with pytest.raises(ExportError, match="'test_resnet_se' cannot be exported: torch.export cannot trace") as caught:
        export_model(LoadedModel(info, DependsOnBatch()), tmp_path / "out", preprocessing=preprocessing)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet50_gamm"], "no model 'resnet50_gamm'; near: resnet50_gam"),
        (["resnet18"], "error: "),  # nothing answers at the Hub of the tests
        (["test_resnet_se", "--checkpoint", "missing"], "no file 'missing'"),
        (["test_resnet_se", "--img-size", "0"], "'0' is not a whole number"),
        (["test_resnet_se", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["test_resnet_se", "--layer", "logits", "--normalize"], "logits have no unit length"),
        (["test_vit", "--no-pretrained", "--img-size", "96"], "fixed at 160 x 160"),
        (["test_resnet_se", "--std", "1", "0", "1"], "each must be above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    try:
        code = export(tmp_path / "out", *arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_without_a_classifier_have_no_logits(tmp_path: Path) -> None:
    loaded = load_model("test_resnet_se", pretrained=False)
    loaded.model.reset_classifier(0)
    with pytest.raises(ExportError, match="no classifier"):
        export_model(loaded, tmp_path / "out", layer="logits")


def test_what_exists_is_never_replaced(tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    assert export(tmp_path / "out", "test_resnet_se") == 2
    (tmp_path / "file").touch()
    assert export(tmp_path / "file" / "below", "test_resnet_se", "--format", "torch") == 2
    error = capsys.readouterr().err
    assert "exists already; name another --output" in error and "cannot write" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_missing_compiler_and_packages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):  # monkeypatch would remove the setting
        assert export(tmp_path / "out", "test_resnet_se", "--format", "onnx", "aoti") == 2
    assert "aoti needs a C++ compiler, and none was found; install g++" in capsys.readouterr().err
    monkeypatch.setattr(export_formats.importlib.util, "find_spec", lambda name: None)
    assert export(tmp_path / "out", "test_resnet_se") == 2
    assert "pip install 'timm-gam[export]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_deviates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = export_folder.fold_batch_norms

    def damaged(network: nn.Module) -> nn.Module:
        network = folded(network)
        next(p for p in network.parameters() if p.ndim == 4).data.mul_(1.01)
        return network

    monkeypatch.setattr(export_folder, "fold_batch_norms", damaged)
    with pytest.raises(ExportError, match="model.pt2 deviates from the model by .*; legal: at most 0.0001"):
        export_model(load_model("test_resnet_se"), tmp_path / "out", formats=["torch"])
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    out, said = tmp_path / "exports", tmp_path / "said"
    options = ["test_resnet_gam", "--format", "torch", "aoti", "--output", str(out / "gam")]
    cache = str(tmp_path / "cache")
    with start_command("timm_gam.export.__main__", options, said, TORCHINDUCTOR_CACHE_DIR=cache) as process:
        wait_until_said("model.pt2", process, said)  # the compiler is next
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        process.join(120)
    assert process.exitcode == 130, said.read_text()
    assert said.read_text().splitlines()[-1] == "interrupted; nothing was written"
    assert list(out.iterdir()) == []
