"""Model names and weight files -> networks that give embeddings.

Weights are read from safetensors files only, and completely: every tensor of the network but its classifier must
be in the file and every tensor of the file must have a place. timm itself loads non-strictly as soon as
class counts differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

import timm_gam  # registers our models  # noqa: F401
from timm_gam.core import ModelError, TimmGamError
from timm_gam.models.checkpoint import compare_tensors, name_some, read_safetensors, weights_digest
from timm_gam.models.pretrained import PretrainedSource, check_model_name, find_pretrained

__all__ = [
    "LoadedModel",
    "ModelInfo",
    "WeightsInfo",
    "load_model",
    "loaded_module",
    "weights_digest",
]


WeightsKind = Literal["pretrained", "checkpoint", "random", "module"]


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights a network has.

    Attributes:
        kind: "pretrained" (by the model's name), "checkpoint" (a file), "random", or "module" (handed over as it was).
        reference: "owner/name@commit", a file's or folder's name, or "seed N".
        sha256: `weights_digest` of the network as loaded.
    """

    kind: WeightsKind
    reference: str
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """What a record says of a model.

    Attributes:
        name: As it was asked for.
        architecture: Registered timm model name.
        num_params: Of the network as loaded, with its classifier if it has one.
        weights: Which weights it has.
        model_args: What its config.json builds it with beside the architecture; the same weights pooled
            otherwise, for one, give other embeddings.
    """

    name: str
    architecture: str
    num_params: int
    weights: WeightsInfo
    model_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode on the CPU, and what it is."""

    info: ModelInfo
    model: nn.Module


def load_model(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> LoadedModel:
    """Create a timm model with weights whose origin is known.

    Args:
        name: "name", "name.tag", "hf-hub:owner/repo[@revision]" or "local-dir:folder".
        checkpoint: A safetensors file instead of the pretrained weights; it may have no classifier or another one.
        pretrained: Without `checkpoint`: the pretrained weights (True) or random ones (False).
        seed: Of random weights; the global random state is left as it was.

    Raises:
        ModelError: no such model or tag, weights that cannot be had, or that do not fit the model.
    """
    try:
        if checkpoint is not None:
            architecture, tensors = check_model_name(name), read_safetensors(checkpoint)
            source = PretrainedSource(architecture, Path(checkpoint), Path(checkpoint).name, {}, {})
            return _with_weights(name, "checkpoint", source, tensors)
        if pretrained:
            source = find_pretrained(name)
            return _with_weights(name, "pretrained", source, read_safetensors(source.file))
        architecture = check_model_name(name)
    except TimmGamError as error:
        raise ModelError(str(error)) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture)
    return _loaded(name, architecture, model, "random", f"seed {seed}")


def loaded_module(model: nn.Module) -> LoadedModel:
    """A timm module that was made elsewhere, put into eval mode, with the digest of the weights it has."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    architecture = str(cfg.get("architecture") or type(model).__name__)
    tag = cfg.get("tag")
    return _loaded(f"{architecture}.{tag}" if tag else architecture, architecture, model, "module", "a module")


def _with_weights(
    name: str, kind: Literal["pretrained", "checkpoint"], source: PretrainedSource, tensors: dict[str, Tensor]
) -> LoadedModel:
    overlay = {key: value for key, value in source.pretrained_cfg.items() if key not in _SOURCE_KEYS}
    classes = _classes_in(tensors, _build(source, device="meta"))
    model = _build(source, num_classes=classes, device="cpu")
    model.pretrained_cfg.update(overlay)
    filtered = _as_timm_reads(tensors, model)
    missing, unexpected, misshapen = compare_tensors(filtered, model)
    if missing or unexpected or misshapen:
        wrong = [
            f"{len(names)} tensors {what} ({name_some(names)})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if names
        ]
        raise ModelError(f"'{source.reference}' is not for {source.architecture}: {'; '.join(wrong)}")
    model.load_state_dict(filtered, strict=False)  # complete, as just checked; only counters of batch norm may lack
    return _loaded(name, source.architecture, model, kind, source.reference, source.model_args)


_SOURCE_KEYS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


def _build(source: PretrainedSource, **kwargs: Any) -> Any:
    try:
        return timm.create_model(source.architecture, **{**source.model_args, **kwargs})
    except Exception as error:  # a config.json may hold any argument, and models refuse them each in their own way
        if not source.model_args:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"'{source.reference}': {source.architecture} cannot be built with the model_args of its config.json, "
            f"{source.model_args}: {reason}"
        ) from error


def _classes_in(tensors: Mapping[str, Tensor], template: nn.Module) -> int:
    """Rows of the checkpoint's classifier, 0 where it has none."""
    classifier = getattr(template, "pretrained_cfg", {}).get("classifier") or ""
    first = classifier if isinstance(classifier, str) else classifier[0]
    weight = tensors.get(f"{first}.weight")
    return 0 if weight is None else int(weight.shape[0])


def _as_timm_reads(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors under the names of the current release: some architectures rename those of older checkpoints."""
    own = model.state_dict()
    if tensors.keys() == own.keys():
        return tensors
    import sys

    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return tensors
    renamed: dict[str, Tensor] = rename(dict(tensors), model)
    return renamed


def _loaded(
    name: str,
    architecture: str,
    model: nn.Module,
    kind: WeightsKind,
    reference: str,
    model_args: dict[str, Any] | None = None,
) -> LoadedModel:
    weights = WeightsInfo(kind, reference, weights_digest(model.state_dict()))
    num_params = sum(parameter.numel() for parameter in model.parameters())
    return LoadedModel(ModelInfo(name, architecture, num_params, weights, model_args or {}), model.eval())
