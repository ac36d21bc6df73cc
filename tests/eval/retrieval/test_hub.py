"""Models and data sets pulled by the real clients over a real socket; see `tests/loopback_hub`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import timm
import torch
from safetensors.torch import load_file

import timm_gam  # noqa: F401  registers the models
from tests.helpers import write_class_folders
from tests.loopback_hub import TOKEN, LoopbackHub, serve_hub
from timm_gam.data import read_folder
from timm_gam.models import weights_digest


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    made = tmp_path_factory.mktemp("made")
    with serve_hub(tmp_path_factory.mktemp("hub")) as hub:
        torch.manual_seed(0)
        whole = timm.create_model("test_resnet_gam", num_classes=3)
        timm.models.save_for_hf(whole, made / "tiny", safe_serialization=True)
        timm.models.save_for_hf(whole, made / "pickled", safe_serialization=False)
        hub.add("models", "timm-gam/tiny", made / "tiny", tag="v1.0")
        hub.add("models", "timm-gam/secret", made / "tiny", private=True)
        hub.add("models", "timm-gam/pickled", made / "pickled")
        corel = timm.create_model("resnet18_se", num_classes=80)
        timm.models.save_for_hf(corel, made / "corel", safe_serialization=True)
        hub.add("models", "timm-gam/resnet18_se.corel", made / "corel")
        hub.add("datasets", "timm-gam/corel", photos_as_parquet(made))
        yield hub


def photos_as_parquet(made: Path) -> Path:
    photos = write_class_folders(made / "photos", classes=3, images=10)
    images = read_folder(photos)
    rows = datasets.Dataset.from_dict(
        {
            "id": list(images.ids),
            "image": [{"bytes": (photos / i).read_bytes(), "path": i} for i in images.ids],
            "label": images.labels.tolist(),
        },
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=list(images.class_names)),
            }
        ),
    )
    (made / "parquet" / "data").mkdir(parents=True)
    rows.to_parquet(made / "parquet" / "data" / "train-00000-of-00001.parquet")
    return made / "parquet"


@pytest.fixture(scope="module")
def tiny_digest(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = hub.copy_out("models", "timm-gam/tiny", tmp_path_factory.mktemp("tiny"))
    return weights_digest(load_file(folder / "model.safetensors"))


def python(code: str, hub: LoopbackHub | None, home: Path, **environment: str) -> str:
    """Run code in a process of its own with HF_ENDPOINT at the hub; the last line it prints."""
    endpoint = hub.url if hub is not None else "http://127.0.0.1:9"
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


LOAD = """
import json
from eval import ModelError, load_model
try:
    info = load_model({name!r}).info
    print(json.dumps([info.architecture, info.weights.reference, info.weights.sha256]))
except ModelError as error:
    print(json.dumps([str(error)]))
"""


def load(name: str, hub: LoopbackHub | None, home: Path, **environment: str) -> list[str]:
    return json.loads(python(LOAD.format(name=name), hub, home, **environment))


def test_hf_hub_model_with_and_without_revision(hub: LoopbackHub, tiny_digest: str, tmp_path: Path) -> None:
    commit, expected = hub.head("models", "timm-gam/tiny").id, tiny_digest
    for name in ("hf-hub:timm-gam/tiny", "hf-hub:timm-gam/tiny@v1.0"):
        assert load(name, hub, tmp_path) == ["test_resnet_gam", f"timm-gam/tiny@{commit}", expected]
    # Cached now: the same answer without a Hub, offline or dead.
    assert load("hf-hub:timm-gam/tiny", None, tmp_path, HF_HUB_OFFLINE="1")[2] == expected
    assert load("hf-hub:timm-gam/tiny", None, tmp_path)[2] == expected


def test_a_published_variant_loads_and_an_unreleased_tag_says_what_to_do(hub: LoopbackHub, tmp_path: Path) -> None:
    architecture, reference, _ = load("hf-hub:timm-gam/resnet18_se.corel", hub, tmp_path)
    assert architecture == "resnet18_se"
    assert reference.startswith("timm-gam/resnet18_se.corel@")
    [said] = load("resnet18_se.corel", hub, tmp_path)
    assert "'resnet18_se.corel' is not released yet" in said


def test_timm_itself_pulls_the_same(hub: LoopbackHub, tmp_path: Path) -> None:
    code = """
import timm, timm_gam
from timm_gam.models import weights_digest
model = timm.create_model("hf-hub:timm-gam/resnet18_se.corel", pretrained=True)
print(model.num_classes, weights_digest(model.state_dict()))
"""
    classes, digest = python(code, hub, tmp_path).split()
    file = hub.copy_out("models", "timm-gam/resnet18_se.corel", tmp_path / "out") / "model.safetensors"
    assert (classes, digest) == ("80", weights_digest(load_file(file)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:timm-gam/nothing", "does not exist on .*or is private"),
        ("hf-hub:timm-gam/tiny@v9", "has no revision 'v9'"),
        ("hf-hub:timm-gam/pickled", "has no file 'model.safetensors'; only safetensors"),
        ("hf-hub:timm-gam/secret", "or is private: check the name, or set HF_TOKEN"),
        ("resnet50_gam", "'timm/resnet50.a1_in1k' does not exist"),
    ],
)
def test_what_the_hub_does_not_have(name: str, message: str, hub: LoopbackHub, tmp_path: Path) -> None:
    import re

    [said] = load(name, hub, tmp_path)
    assert re.search(message, said), said
    assert "\n" not in said


def test_private_repository_opens_with_a_token(hub: LoopbackHub, tmp_path: Path) -> None:
    assert load("hf-hub:timm-gam/secret", hub, tmp_path, HF_TOKEN=TOKEN)[0] == "test_resnet_gam"


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["dead", "offline"])
def test_no_hub_and_nothing_cached_answers_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    [said] = load("resnet50_se.a1_in1k", None, tmp_path, **environment)
    assert "timm/seresnet50.a1_in1k" in said


SCORE = """
import json, sys
from eval.retrieval import main
code = main(["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "-j", "{workers}", "--interval", "none",
             "--dataset", "timm-gam/corel", "--results-file", {out!r}, *{extra!r}])
print(code)
"""


def test_data_set_downloaded_and_streamed_scores_as_its_folder(hub: LoopbackHub, tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=10)
    results = {}
    for name, extra, workers in (("whole", [], 0), ("stream", ["--streaming"], 2), ("folder", None, 0)):
        out = tmp_path / f"{name}.json"
        if extra is None:
            code = SCORE.format(out=str(out), extra=[], workers=workers)
            code = code.replace('"--dataset", "timm-gam/corel"', f'"--data-dir", {str(photos)!r}')
        else:
            code = SCORE.format(out=str(out), extra=extra, workers=workers)
        assert python(code, hub, tmp_path / "home") == "0"
        results[name] = json.loads(out.read_text())["results"][0]
    for name in ("stream", "folder"):
        assert results[name]["metrics"] == results["whole"]["metrics"]
        assert results[name]["data"]["fingerprint"] == results["whole"]["data"]["fingerprint"]


def test_dead_hub_falls_back_and_says_why(tmp_path: Path) -> None:
    code = "import sys; from eval.retrieval import main; sys.exit(main(['--interval', 'none', '--img-size', '32']))"
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=180, check=True
    )
    assert "no answer from http://127.0.0.1:9" in done.stderr
    assert "not COREL" in done.stdout
