"""The pretrained tags of the variants: which weights a name stands for, the best that exist first.

- `.corel`: trained on COREL with its attention, once `releases.json` pins it; unreleased, timm does not list it.
- `.a1_in1k_identity` and its like: ImageNet weights of timm's plain network, `resnet50.a1_in1k` here, pulled from the
  Hub as they are. **The attention is untrained and does nothing yet**: every gate starts at the exact no-op of
  `timm_gam.from_backbone`, so features are those of the plain network bit for bit until the model is trained.
- `resnet50_se.a1_in1k` and its like: timm's `seresnet50`, attention trained on ImageNet.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg
from timm.models.resnet import _cfg

from timm_gam.core import CheckpointError, HubError, hub_namespace
from timm_gam.models.weights.releases import find_release
from timm_gam.models.weights.shipped_weights import find_shipped

COREL_CLASSES = 80
"""Classes of the COREL data set the `.corel` weights are trained on."""
COREL_TAG = "corel"
"""Of the weights of the zoo, trained on COREL photographs."""
_IDENTITY = "_identity"
_IMAGENET_CLASSES = 1000


def variant_tags(name: str, base: str, attention: str) -> dict[str, dict[str, Any]]:
    """The configs of a variant ("resnet50_gam" of "resnet50" and "GAM") by "name.tag"; timm's default is the first."""
    return {**_corel(name), **_timms_own(name), **_identity(name, base, attention)}


def is_identity(tag: str | None) -> bool:
    """Whether a tag stands for weights of a plain network, to be started at identity gates."""
    return bool(tag) and str(tag).endswith(_IDENTITY)


def as_released(cfg: PretrainedCfg) -> PretrainedCfg:
    """A config with the repository of its COREL weights, where they are released by now; any other as it is.

    Raises:
        CheckpointError: they are not released; it says what to do.
        HubError: the file of releases cannot be read.
    """
    if cfg.tag != COREL_TAG or cfg.has_weights or cfg.state_dict:
        return cfg
    name = str(cfg.architecture)
    if find_release(corel_repository(name)) is not None:
        return replace(cfg, hf_hub_id=corel_repository(name))
    best = get_pretrained_cfg(name)
    kind = "ImageNet weights" + (", attention untrained" if is_identity(best.tag) else "")
    raise CheckpointError(
        f"'{name}.{COREL_TAG}' is not released yet: use {name}.{best.tag} ({kind}), "
        "or train it by python -m eval.table1"
    )


def corel_repository(name: str) -> str:
    """Where the COREL weights of a variant are, or will be, published."""
    return f"{hub_namespace()}/{name}.{COREL_TAG}"


def _corel(name: str) -> dict[str, dict[str, Any]]:
    """Trained on COREL: in the package (the tiny family, at 64 x 64), or on the Hub where a release pins it."""
    if (shipped := find_shipped(f"{name}.{COREL_TAG}")) is not None:
        config = {"input_size": (3, 64, 64), "pool_size": (2, 2), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        where: dict[str, Any] = {"file": str(shipped / "model.safetensors"), "first_conv": "conv1.0", **config}
    else:
        where = {}
        with suppress(HubError):  # said when the weights are asked for; importing does not fail
            where = {"hf_hub_id": corel_repository(name)} if find_release(corel_repository(name)) else {}
    return {
        f"{name}.{COREL_TAG}": _cfg(
            url=None, num_classes=COREL_CLASSES, crop_pct=0.95, interpolation="bicubic", license="apache-2.0", **where
        )
    }


def _timms_own(name: str) -> dict[str, dict[str, Any]]:
    """timm's SE-ResNet50, whose state dict is that of `resnet50_se`: attention that was trained on ImageNet."""
    if name != "resnet50_se":
        return {}
    theirs = {tag: get_pretrained_cfg(f"seresnet50.{tag}") for tag in ("a1_in1k", "a2_in1k", "a3_in1k", "ra2_in1k")}
    return {f"{name}.{tag}": _pulled(cfg, f"timm/seresnet50.{tag}") for tag, cfg in theirs.items()}


def _identity(name: str, base: str, attention: str) -> dict[str, dict[str, Any]]:
    """A start from each of timm's ImageNet weights of the plain network that are on the Hub, as safetensors there."""
    return {
        f"{name}.{cfg.tag}{_IDENTITY}": _pulled(
            cfg,
            str(cfg.hf_hub_id),
            description=f"ImageNet weights of the plain {plain}; the {attention} attention is untrained and does "
            f"nothing: until the model is trained further, its features are those of {plain}, bit for bit",
        )
        for plain, cfg in get_arch_pretrained_cfgs(base).items()
        if str(cfg.hf_hub_id or "").startswith("timm/")
        and not cfg.hf_hub_filename
        and cfg.num_classes == _IMAGENET_CLASSES
    }


def _pulled(theirs: PretrainedCfg, hf_hub_id: str, **changes: Any) -> dict[str, Any]:
    """timm's own data config of weights, under a name of ours."""
    return {**theirs.to_dict(), "hf_hub_id": hf_hub_id, "url": "", "architecture": None, "tag": None, **changes}
