"""Model names and weight files -> networks that give embeddings.

Weights are read from safetensors files only, and completely: every tensor of the network but its classifier must
be in the file and every tensor of the file must have a place. timm itself loads non-strictly as soon as
class counts differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

import timm_gam  # registers our models  # noqa: F401
from timm_gam.core import ModelError, TimmGamError, one_line
from timm_gam.models.attention import is_plain_backbone, starts_from_plain
from timm_gam.models.weights.checkpoint import read_safetensors, weights_digest
from timm_gam.models.weights.fit import Fit, class_count, fit_tensors
from timm_gam.models.weights.pretrained import WEIGHTS_NAME, PretrainedSource, check_model_name, find_pretrained
from timm_gam.models.weights.training_record import PREPROCESSING_KEYS, TrainingRecord, read_training_record

_LARGER = 10  # GAM in a ResNet-101 has 6 times the parameters of the plain network it may start from
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
    """A network and what is known of it.

    Attributes:
        info: What a record says of it.
        model: In eval mode, on the CPU. Its `pretrained_cfg` says how images are prepared for it.
        head: The file of the head that was published with it, or None.
        training: What its file says of the training of its weights.
    """

    info: ModelInfo
    model: nn.Module
    head: Path | None = None
    training: TrainingRecord = field(default_factory=TrainingRecord)

    @property
    def knows_preprocessing(self) -> bool:
        """Whether its preprocessing is that of its weights, and not of whatever weights its architecture has."""
        return self.info.weights.kind in ("pretrained", "module") or bool(self.training.preprocessing)


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
            Where it says how images were prepared for its weights, they are prepared so.
        pretrained: Without `checkpoint`: the pretrained weights (True) or random ones (False).
        seed: Of random weights; the global random state is left as it was.

    Raises:
        ModelError: no such model or tag, weights that cannot be had, or that do not fit the model.

    >>> import timm_gam
    >>> timm_gam.load_model("test_resnet_gam.corel").model.num_features
    96
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


def check_fit(name: str, checkpoint: str | Path) -> None:
    """Make sure that the tensors of a file have the names and shapes of a model, without making either.

    Raises:
        ModelError: they do not, or the file is not good.
    """
    try:
        architecture, tensors = check_model_name(name), read_safetensors(checkpoint)
        source = PretrainedSource(architecture, Path(checkpoint), Path(checkpoint).name, {}, {})
        model, fit = _fitted(source, tensors, "meta")
    except TimmGamError as error:
        raise ModelError(str(error)) from error
    starts_plain = getattr(model, "gate_init", None) == "identity" and is_plain_backbone(model, fit.tensors)
    if not (fit.complete or starts_plain):
        raise ModelError(f"'{source.reference}' is not for {source.architecture}: {fit}")


def loaded_module(model: nn.Module) -> LoadedModel:
    """A timm module that was made elsewhere, put into eval mode, with the digest of the weights it has."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    architecture = str(cfg.get("architecture") or type(model).__name__)
    tag = cfg.get("tag")
    return _loaded(f"{architecture}.{tag}" if tag else architecture, architecture, model, "module", "a module")


def _with_weights(
    name: str, kind: Literal["pretrained", "checkpoint"], source: PretrainedSource, tensors: dict[str, Tensor]
) -> LoadedModel:
    model, fit = _fitted(source, tensors, "cpu")
    rest = fit.but_for(starts_from_plain(model, fit.tensors))
    if not rest.complete:
        raise ModelError(f"'{source.reference}' is not for {source.architecture}: {rest}")
    model.load_state_dict(fit.tensors, strict=False)  # complete, as just checked; only counters of batch norm may lack
    training = read_training_record(source.file)
    if kind == "checkpoint":
        training = replace(training, preprocessing=training.preprocessing or _preprocessing_beside(source))
        vars(model)["pretrained_cfg"] = {**(vars(model).get("pretrained_cfg") or {}), **training.preprocessing}
    loaded = _loaded(name, source.architecture, model, kind, source.reference, source.model_args)
    return replace(loaded, head=source.head, training=training)


def _fitted(source: PretrainedSource, tensors: dict[str, Tensor], device: str) -> tuple[nn.Module, Fit]:
    """The network with as many classes as the tensors have, and how they fit it."""
    template = _build(source, device="meta")
    _refuse_larger(source, template, tensors)
    classes = class_count(fit_tensors(tensors, template).tensors, template) or 0
    model = _build(source, num_classes=classes, device=device)
    return model, fit_tensors(tensors, model)


def _preprocessing_beside(source: PretrainedSource) -> dict[str, Any]:
    """What the config.json that a file was published with says; empty where it is of another network, or not there."""
    folder = source.file.parent
    if source.file.name != WEIGHTS_NAME or not (folder / "config.json").is_file():
        return {}
    beside = find_pretrained(f"local-dir:{folder}")
    if beside.architecture != source.architecture:
        return {}
    return {key: beside.pretrained_cfg[key] for key in PREPROCESSING_KEYS if key in beside.pretrained_cfg}


def _build(source: PretrainedSource, **kwargs: Any) -> nn.Module:
    given = {"pretrained_cfg": source.pretrained_cfg} if source.pretrained_cfg else {}
    try:
        model: nn.Module = timm.create_model(source.architecture, **{**source.model_args, **given, **kwargs})
    except Exception as error:  # a config.json may hold any argument, and models refuse them each in their own way
        if not (source.model_args or given):
            raise
        raise ModelError(
            f"'{source.reference}': {source.architecture} cannot be built as its config.json says (model_args "
            f"{source.model_args}): {one_line(error)}"
        ) from error
    # Where timm's filters look for the size that positions are for.
    vars(model)["pretrained_model_args"] = source.model_args
    return model


def _refuse_larger(source: PretrainedSource, template: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a network far larger than its file before memory is taken for it: a config may ask for any size."""
    wanted = sum(parameter.numel() for parameter in template.parameters())
    found = sum(tensor.numel() for tensor in tensors.values())
    if source.model_args and wanted > _LARGER * (found + 1_000_000):
        raise ModelError(
            f"'{source.reference}' is not for {source.architecture}: its config.json asks for {wanted:,} parameters, "
            f"its file holds {found:,}"
        )


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
