"""The command line: real runs on small folders, every kind of bad input, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save_file

import eval as evaluation
from eval.retrieval import main
from tests.helpers import write_class_folders
from tests.processes import start_command
from timm_gam.data import draw_synthetic
from timm_gam.embed import EmbedSettings

QUICK = ["--no-pretrained", "--img-size", "32", "-j", "0", "--interval", "queries"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos", classes=3, images=6)


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def schema() -> dict:
    return json.loads(files("eval.results").joinpath("results.schema.json").read_text())


def test_run_writes_a_document_that_follows_its_schema(photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "results.json"
    code = run(
        "--model", "test_resnet_gam", "test_resnet", "--data-dir", photos, *QUICK,
        "--results-file", out, "--per-class", "--paper-table", "-k", "1", "10",
    )  # fmt: skip
    assert code == 0
    text = capsys.readouterr().out
    for expected in ("leave-one-out", "photos: 18 images", "hit@10", "Top-10 (hit@10)", "79.18", "class2", str(out)):
        assert expected in text
    document = json.loads(out.read_text())
    jsonschema.validate(document, schema())
    assert [entry["model"]["name"] for entry in document["results"]] == ["test_resnet_gam", "test_resnet"]
    entry = document["results"][0]
    assert entry["protocol"]["queries"] == entry["protocol"]["gallery"] == 18
    assert entry["weights"]["kind"] == "random"
    low, high = entry["metrics"]["map"]["micro_ci95"]
    assert low <= entry["metrics"]["map"]["micro"] <= high
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_json_on_standard_output_is_all_there_is(photos: Path, capsys) -> None:
    assert run("--model", "test_resnet", "--data-dir", photos, *QUICK, "--results-file", "-") == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema())


def test_same_seed_same_numbers(photos: Path, tmp_path: Path) -> None:
    runs = []
    for name, batch in (("a.json", "4"), ("b.json", "18")):
        out = tmp_path / name
        assert run("--model", "test_resnet", "--data-dir", photos, *QUICK, "-b", batch, "--results-file", out) == 0
        runs.append(json.loads(out.read_text())["results"][0])
    assert runs[0]["metrics"] == runs[1]["metrics"]
    assert runs[0]["data"]["fingerprint"] == runs[1]["data"]["fingerprint"]


@pytest.mark.parametrize(
    "options",
    [
        ["--protocol", "query-gallery"],
        ["--protocol", "class-disjoint"],
        ["--split", "train", "--distance", "euclidean"],
        ["--layer", "pre_logits", "--channels-last", "--amp"],
        ["--crop-pct", "1.0", "--crop-mode", "squash", "--interpolation", "bilinear", "--mean", "0", "0", "0"],
        ["--memory-budget", "1", "--interval", "none"],
        ["--torchcompile", "eager"],
        ["--shrink-on-load"],
    ],
    ids=lambda options: options[0],
)
def test_options(options: list[str], photos: Path) -> None:
    assert run("--model", "test_resnet", "--data-dir", photos, *QUICK, *options) == 0


def test_optimized_network_gives_the_same_scores_and_says_what_was_done(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    results = []
    for options in ([], ["--optimize"]):
        arguments = ("--model", "test_resnet", "--data-dir", photos, *QUICK, *options, "--results-file", out)
        assert run(*arguments) == 0
        results.append(json.loads(out.read_text())["results"][0])
    plain, optimized = results
    assert plain["timings"]["optimizations"] == []
    assert any("batch norms folded" in line for line in optimized["timings"]["optimizations"])
    assert any("compiled" in line for line in optimized["timings"]["optimizations"])
    for name, value in plain["metrics"].items():
        assert optimized["metrics"][name]["micro"] == pytest.approx(value["micro"], abs=1e-9), name


def test_separate_gallery(photos: Path, tmp_path: Path) -> None:
    gallery = write_class_folders(tmp_path / "gallery", classes=3, images=4)
    out = tmp_path / "r.json"
    assert run("--model", "test_resnet", "--data-dir", photos, "--gallery-dir", gallery, *QUICK,
               "--results-file", out) == 0  # fmt: skip
    protocol = json.loads(out.read_text())["results"][0]["protocol"]
    assert (protocol["name"], protocol["queries"], protocol["gallery"]) == ("query-gallery", 18, 12)


def test_wildcards_and_checkpoints(photos: Path, tmp_path: Path, capsys) -> None:
    assert run("--model", "test_resnet_[sg]*", "--data-dir", photos, *QUICK) == 0
    out = capsys.readouterr().out
    assert "test_resnet_gam" in out
    assert "test_resnet_se" in out
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet_se", num_classes=3).state_dict(), path)
    assert run("--model", "test_resnet_se", "--checkpoint", path, "--data-dir", photos, "--img-size", "32") == 0
    assert "checkpoint" in capsys.readouterr().out


def test_skipped_images_are_counted(photos: Path, tmp_path: Path, capsys) -> None:
    (photos / "class1" / "3.jpg").write_bytes(b"broken")
    out = tmp_path / "r.json"
    arguments = ["--model", "test_resnet", "--data-dir", photos, *QUICK, "--results-file", out]
    assert run(*arguments) == 2
    assert not out.exists()
    assert "class1/3.jpg" in capsys.readouterr().err
    assert run(*arguments, "--skip-unreadable") == 0
    assert json.loads(out.read_text())["results"][0]["data"]["unreadable"] == [
        {"id": "class1/3.jpg", "reason": "not an image"}
    ]


def test_nothing_named_and_no_hub_runs_the_embedded_default(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("eval.arguments.inputs.draw_synthetic", lambda: draw_synthetic(3))  # of 30, for speed
    assert run("--interval", "none", "--results-file", tmp_path / "r.json", "-j", "0") == 0
    shown = capsys.readouterr()
    assert "timm/resnet50.a1_in1k" in shown.err
    assert "embedded default" in shown.err
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, schema())
    assert "HF_HUB_OFFLINE" in document["notes"][0]
    assert len(document["results"]) == 4
    for entry in document["results"]:
        assert "not COREL" in entry["data"]["name"]
        assert 0.3 < entry["metrics"]["hit@1"]["micro"] < 0.95
    assert "not COREL" in shown.out


def test_help_teaches_without_torch() -> None:
    code = (
        "import sys; from eval.retrieval import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m eval.retrieval --model" in done.stdout
    assert "exit codes" in done.stdout


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=10, images=60, side=200)
    out, cache = tmp_path / "r.json", tmp_path / "cache"
    options = ["--model", "resnet18", "--no-pretrained", "--data-dir", str(photos), "--results-file", str(out),
               "--cache-dir", str(cache), "-b", "2", "--device", "cpu"]  # fmt: skip
    said = tmp_path / "said"
    with start_command("eval.retrieval", options, said) as process:
        while not cache.exists():
            assert process.is_alive(), said.read_text()
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
    assert "Traceback" not in said.read_text()
    assert not out.exists()
    assert all(path.suffix == ".safetensors" and path.name[0] != "." for path in cache.iterdir()), "parts, whole"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_interrupt_within_an_import_ends_the_process() -> None:
    # NumPy turns an interrupt here into an ImportError, and swallows it elsewhere.
    code = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from eval.retrieval import main
class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("numpy._core.printoptions", "numpy.core.arrayprint"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.exit(main(["--model", "test_resnet", "--data-dir", "/nowhere"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_every_step_works_from_python(photos: Path) -> None:
    images = evaluation.read_folder(photos)
    loaded = evaluation.load_model("test_resnet_gam", pretrained=False)
    network = evaluation.embedding_network(loaded.model)
    transform = evaluation.resolve_preprocessing(loaded.model, img_size=32).transform()
    vectors = evaluation.embed_images(network, images, transform, EmbedSettings(workers=0)).vectors
    scores = evaluation.score_retrieval(vectors, images.labels)
    points = evaluation.fixed_point(vectors)
    blocks = evaluation.rank_relevant(
        evaluation.ExactScorer(points), images.labels, images.labels, self_index=np.arange(18)
    )
    by_hand = np.concatenate([evaluation.query_metrics(block)["map"] for block in blocks])
    assert scores.averages["map"].micro == pytest.approx(by_hand.mean())


def test_exports_match() -> None:
    assert sorted(evaluation.__all__) == evaluation.__all__
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None
    with pytest.raises(AttributeError, match="it has"):
        _ = evaluation.nonsense


def test_real_photos_real_network(coreldb: Path, mobilenetv2_weights: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for name in ("wl_tiger", "obj_bus", "sc_sunset", "pl_flower"):
        (few / name).mkdir(parents=True)
        for path in sorted((coreldb / name).iterdir())[:12]:
            (few / name / path.name).symlink_to(path)
    out = tmp_path / "r.json"
    assert run("--model", "mobilenetv2_100", "--checkpoint", mobilenetv2_weights, "--data-dir", few,
               "--results-file", out, "--img-size", "128") == 0  # fmt: skip
    assert json.loads(out.read_text())["results"][0]["metrics"]["precision@1"]["micro"] > 0.85
