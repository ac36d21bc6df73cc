"""Models and data sets pulled by the real clients over a real socket; see `tests/loopback_hub`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

import timm_gam  # noqa: F401  registers the models
from eval.retrieval import main
from tests.conftest import HUB_PORT
from tests.helpers import write_class_folders
from tests.loopback_hub import LoopbackHub, serve_hub
from timm_gam.core import ModelError
from timm_gam.data import read_folder
from timm_gam.models import load_model, weights_digest


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    made = tmp_path_factory.mktemp("made")
    with serve_hub(tmp_path_factory.mktemp("hub"), port=HUB_PORT) as hub:
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


@pytest.fixture(autouse=True)
def empty_caches(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def load(name: str) -> list[str]:
    """What was loaded, or the one line that says why not."""
    try:
        info = load_model(name).info
    except ModelError as error:
        return [str(error)]
    return [info.architecture, info.weights.reference, info.weights.sha256]


def load_without_a_hub(name: str, cache: Path) -> list[str]:
    """`load` in a process of its own, whose endpoint nobody serves."""
    code = f"import json; from tests.eval.retrieval.test_hub import load; print(json.dumps(load({name!r})))"
    env = {**os.environ, "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=180, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_hf_hub_model_with_and_without_revision(
    hub: LoopbackHub, tiny_digest: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.head("models", "timm-gam/tiny").id
    for name in ("hf-hub:timm-gam/tiny", "hf-hub:timm-gam/tiny@v1.0"):
        assert load(name) == ["test_resnet_gam", f"timm-gam/tiny@{commit}", tiny_digest]
    # Cached now: the same answer without a Hub, dead or offline.
    assert load_without_a_hub("hf-hub:timm-gam/tiny", cache)[2] == tiny_digest
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("hf-hub:timm-gam/tiny")[2] == tiny_digest


def test_a_published_variant_loads_and_an_unreleased_tag_says_what_to_do(hub: LoopbackHub) -> None:
    architecture, reference, _ = load("hf-hub:timm-gam/resnet18_se.corel")
    assert architecture == "resnet18_se"
    assert reference.startswith("timm-gam/resnet18_se.corel@")
    [said] = load("resnet18_se.corel")
    assert "'resnet18_se.corel' is not released yet" in said


def test_timm_itself_pulls_the_same(hub: LoopbackHub, tmp_path: Path) -> None:
    model = timm.create_model("hf-hub:timm-gam/resnet18_se.corel", pretrained=True)
    file = hub.copy_out("models", "timm-gam/resnet18_se.corel", tmp_path / "out") / "model.safetensors"
    assert model.num_classes == 80
    assert weights_digest(model.state_dict()) == weights_digest(load_file(file))


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
def test_what_the_hub_does_not_have(name: str, message: str, hub: LoopbackHub) -> None:
    [said] = load(name)
    assert re.search(message, said), said
    assert "\n" not in said


def test_private_repository_opens_with_a_token(hub: LoopbackHub, token: str) -> None:
    assert load("hf-hub:timm-gam/secret")[0] == "test_resnet_gam"


@pytest.mark.parametrize("offline", [False, True], ids=["dead", "offline"])
def test_no_hub_and_nothing_cached_answers_in_one_line(
    offline: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    [said] = load("resnet50_se.a1_in1k")
    assert "timm/seresnet50.a1_in1k" in said


def test_data_set_downloaded_and_streamed_scores_as_its_folder(hub: LoopbackHub, tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=10)
    quick = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "--interval", "none", "--results-file"]
    results = {}
    for name, options in (
        ("whole", ["--dataset", "timm-gam/corel", "-j", "0"]),
        ("stream", ["--dataset", "timm-gam/corel", "-j", "2", "--streaming"]),
        ("folder", ["--data-dir", str(photos), "-j", "0"]),
    ):
        out = tmp_path / f"{name}.json"
        assert main([*quick, str(out), *options]) == 0
        results[name] = json.loads(out.read_text())["results"][0]
    for name in ("stream", "folder"):
        assert results[name]["metrics"] == results["whole"]["metrics"]
        assert results[name]["data"]["fingerprint"] == results["whole"]["data"]["fingerprint"]
