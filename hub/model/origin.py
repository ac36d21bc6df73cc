"""Where weights come from, as far as the run's record and timm's registry say: base model, data set and licence."""

from __future__ import annotations

import re

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, is_model_in_modules

from hub.model.trained import TrainedModel
from timm_gam.models import COREL_TAG


def find_base_model(trained: TrainedModel) -> str | None:
    """The Hub id of the weights that the run started from; None where it started from none that is on the Hub."""
    source = str(trained.data.get("start", {}).get("source", ""))
    if source.startswith("hf-hub:"):
        return source.removeprefix("hf-hub:").partition("@")[0]
    cfg = _registered(source)
    if cfg is None or not cfg.hf_hub_id:
        return None
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    return str(cfg.hf_hub_id).partition("@")[0] + (name if cfg.hf_hub_id.endswith("/") else "")


def find_dataset(trained: TrainedModel) -> str | None:
    """The Hub id of the images that the run read from the Hub; None where no record says one."""
    read = str((trained.recipe or {}).get("dataset") or "").partition("@")[0]
    return read if "/" in read else None


def find_scored(trained: TrainedModel) -> str | None:
    """The Hub id of the images that the weights were scored on, by the record; None where it names none."""
    name = str(trained.result["data"]["name"]) if trained.result is not None else ""
    found = re.match(r"([\w.-]+/[\w.-]+)(?:@|$| )", name)
    return found[1] if found else None


def find_license(trained: TrainedModel) -> str | None:
    """The licence registered for the tag, else for the weights the run started from, else for a variant of ours."""
    ours = is_model_in_modules(trained.architecture, ["attention_resnet"])
    zoo = f"{trained.architecture}.{COREL_TAG}" if ours else ""
    for name in (trained.name, str(trained.data.get("start", {}).get("source", "")), zoo):
        cfg = _registered(name)
        if cfg is not None and cfg.license:
            return str(cfg.license)
    return None


def _registered(name: str) -> PretrainedCfg | None:
    """timm's config of "architecture.tag", or of an architecture's default tag; None for any other name."""
    if "." in name:
        return get_arch_pretrained_cfgs(name.partition(".")[0]).get(name)
    return get_pretrained_cfg(name) if is_model(name) else None
