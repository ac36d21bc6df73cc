"""What names stand for: the tags of every variant, their default, and what is said of weights that are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from timm.models import get_arch_pretrained_cfgs

import timm_gam
from timm_gam.core import CheckpointError, HubError
from timm_gam.models import find_pretrained
from timm_gam.models.weights.tags import variant_tags

VARIANTS = timm.list_models(module="attention_resnet")
BIG = [name for name in VARIANTS if not name.startswith("test_")]
SE = {f"resnet50_se.{tag}" for tag in ("a1_in1k", "a2_in1k", "a3_in1k", "ra2_in1k")}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_imagenet_tag_of_the_plain_network_is_a_start(name: str) -> None:
    base = name.replace("_gam_g4", "_gam").rpartition("_")[0]
    plain = get_arch_pretrained_cfgs(base)
    assert timm.get_pretrained_cfg(base).tag in next(iter(plain)), "timm's default comes first"
    starts = {key: cfg for key, cfg in get_arch_pretrained_cfgs(name).items() if key.endswith("_identity")}
    assert list(starts) == [f"{name}.{cfg.tag}_identity" for cfg in plain.values() if cfg.num_classes == 1000]
    assert len(starts) >= (1 if base == "test_resnet" else 7)
    for key, cfg in starts.items():
        theirs = plain[f"{base}.{cfg.tag.removesuffix('_identity')}"]
        assert cfg.hf_hub_id == theirs.hf_hub_id == f"timm/{base}.{theirs.tag}"
        assert "the plain " + cfg.hf_hub_id.removeprefix("timm/") in cfg.description
        assert "attention is untrained and does nothing" in cfg.description
        assert not cfg.url
        for same in (
            "input_size",
            "test_input_size",
            "crop_pct",
            "mean",
            "std",
            "interpolation",
            "license",
        ):
            assert getattr(cfg, same) == getattr(theirs, same), (key, same)


def test_what_timm_lists() -> None:
    listed = set(timm.list_pretrained("*"))
    assert set(timm.list_pretrained("*.corel")) == {f"test_resnet_{kind}.corel" for kind in ("gam", "se", "cbam")}
    assert listed >= SE | {"seresnet50.a1_in1k", "resnet50.a1_in1k"}
    ours = {name for name in listed if name.partition(".")[0] in VARIANTS}
    assert all(name.endswith((".corel", "_identity")) for name in ours - SE)


@pytest.mark.parametrize("name", BIG)
def test_the_default_is_the_best_that_exists(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    base = name.partition("_")[0]
    tag = timm.get_pretrained_cfg(base).tag
    assert cfg.tag == ("a1_in1k" if name == "resnet50_se" else f"{tag}_identity")
    assert timm.get_pretrained_cfg(f"{name}.corel").num_classes == 80, "known, but without weights"
    doc = timm.model_entrypoint(name).__doc__
    assert "attention trained on ImageNet" in doc if name == "resnet50_se" else "attention doing nothing yet" in doc


def test_the_tiny_family_is_in_the_package() -> None:
    for kind in ("gam", "se", "cbam"):
        cfg = timm.get_pretrained_cfg(f"test_resnet_{kind}")
        assert (cfg.tag, cfg.hf_hub_id) == ("corel", None)


def test_what_is_not_released_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (lambda n: timm.create_model(n, pretrained=True), find_pretrained):
        with pytest.raises(CheckpointError) as error:
            ask("resnet101_gam.corel")
        assert str(error.value) == (
            "'resnet101_gam.corel' is not released yet: use resnet101_gam.a1h_in1k_identity (ImageNet weights, "
            "attention untrained), or train it by python -m eval.table1"
        )
    with pytest.raises(CheckpointError, match=r"use resnet50_se.a1_in1k \(ImageNet weights\), or"):
        find_pretrained("resnet50_se.corel")
    (tmp_path / "releases.json").write_text("{")
    monkeypatch.setenv("TIMM_GAM_RELEASES", str(tmp_path / "releases.json"))
    with pytest.raises(HubError, match="is no file of releases"):
        timm.create_model("resnet101_gam.corel", pretrained=True)
    timm.create_model("resnet18_gam.corel", pretrained=False, device="meta")


def test_a_release_becomes_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = {"somebody/resnet50_gam.corel": {"revision": "a" * 40, "sha256": "b" * 64}}
    (tmp_path / "releases.json").write_text(json.dumps(released))
    monkeypatch.setenv("TIMM_GAM_RELEASES", str(tmp_path / "releases.json"))
    monkeypatch.setenv("TIMM_GAM_NAMESPACE", "somebody")
    assert timm_gam.hub_namespace() == "somebody"
    assert variant_tags("resnet18_gam", "resnet18", "GAM")["resnet18_gam.corel"].get("hf_hub_id") is None
    code = (
        "import timm, timm_gam\n"
        "print(timm.get_pretrained_cfg('resnet50_gam').hf_hub_id, *timm.list_pretrained('resnet*.corel'))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["somebody/resnet50_gam.corel", "resnet50_gam.corel"]
