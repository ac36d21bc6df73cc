"""Names and configs of strangers: one error each, whatever they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from timm_gam.core import HubError, TimmGamError, UnknownModelError
from timm_gam.models import check_model_name, find_pretrained
from timm_gam.models.weights.shipped_weights import SHIPPED


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:../../etc", "hf-hub:a/b/c", "hf-hub:-/-"])
def test_names_that_are_no_hub_id(name: str) -> None:
    with pytest.raises(HubError, match="is no Hub id; one reads owner/name"):
        find_pretrained(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": None}, "is for model 'None', which is not registered"),
        ({"architecture": ["resnet50"]}, "not registered"),
        ({"pretrained_cfg": 3}, "is not a timm config"),
        ({"model_args": {"layers": [1, 2**31]}}, "sets layers to numbers above 65,536: refused"),
        ({"model_args": {"layers": float("nan")}}, "sets layers to numbers above"),
        ({"model_args": {"device": "cuda"}}, "sets device: refused"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "sets checkpoint_path: refused"),
    ],
)
def test_configs_of_strangers(tmp_path: Path, change: dict[str, object], message: str) -> None:
    shutil.copytree(SHIPPED / "test_resnet_se.corel", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(TimmGamError, match=message):
        find_pretrained(f"local-dir:{tmp_path / 'model'}")


def test_weights_where_a_model_name_is_needed() -> None:
    with pytest.raises(UnknownModelError, match="a plain model name is needed"):
        check_model_name("local-dir:folder")
