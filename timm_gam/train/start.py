"""The model to train and where its weights start."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import nn

from timm_gam.core import CheckpointError, RecipeError
from timm_gam.models import (
    TrainingRecord,
    check_model_name,
    classifier_names,
    find_pretrained,
    fit_tensors,
    from_backbone,
    is_plain_backbone,
    read_safetensors,
    read_training_record,
    weights_digest,
)
from timm_gam.train.recipe import MODEL_BACKBONE, Recipe
from timm_gam.train.step.seeds import seed_for

SCRATCH = "scratch"
_ATTENTION_SUFFIX = re.compile(r"_(gam|gam_g4|se|cbam)$")


@dataclass(frozen=True)
class Start:
    """Where a run's weights started, for its record.

    Attributes:
        kind: "scratch", "backbone" (a plain network; its attention layers are new) or "checkpoint" (all layers).
        source: What the recipe named, or the pretrained name that "imagenet" stands for.
        reference: "owner/name@commit", a file's or folder's name; None from scratch.
        sha256: Of the weights that were read, as `timm_gam.models.load.weights_digest`; None from scratch.
        gate_init: How new attention gates start, or None where there are none.
        training: What the file of the weights says of their training; empty from scratch.
    """

    kind: str
    source: str
    reference: str | None
    sha256: str | None
    gate_init: str | None
    training: TrainingRecord = field(default_factory=TrainingRecord)

    def as_dict(self) -> dict[str, Any]:
        """What data.json has of it."""
        return {name: value for name, value in vars(self).items() if name != "training"}


def start_model(recipe: Recipe, num_classes: int) -> tuple[nn.Module, Start]:
    """Create the recipe's model with its start weights and a classifier of `num_classes`.

    A start that holds no attention tensor of one of our variants is a plain backbone and goes through
    `timm_gam.from_backbone`, at identity gates where its name says so (`.a1_in1k_identity`); any other must be complete
    but for its classifier.

    Raises:
        TimmGamError: no such model, or weights that cannot be had or do not fit.
    """
    name = check_model_name(recipe.model.partition(".")[0])
    ours = is_model_in_modules(name, ["attention_resnet"])
    if not ours and recipe.gate_init != "paper":
        raise RecipeError(f"gate_init {recipe.gate_init} came with {name}, which has no gates of ours")
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if recipe.drop_path:
        arguments["drop_path_rate"] = recipe.drop_path
    torch.manual_seed(seed_for(recipe.seed, "weights"))
    gates: dict[str, Any] = {"gate_init": recipe.gate_init} if ours else {}
    if recipe.start == SCRATCH:
        model = timm.create_model(name, **arguments, **gates)
        return model, Start(SCRATCH, SCRATCH, None, None, gates.get("gate_init"))
    source = recipe.start
    if source == MODEL_BACKBONE:  # the model's tag, or the plain network under a variant of ours
        source = _ATTENTION_SUFFIX.sub("", name) if ours and "." not in recipe.model else recipe.model
    file, reference, is_identity = _locate(source)
    if ours and is_identity:  # as the name of the weights says
        gates = {"gate_init": "identity"}
    tensors, training = read_safetensors(file), read_training_record(file)
    digest = weights_digest(tensors)
    template = timm.create_model(name, **arguments, device="meta")
    fit = fit_tensors(tensors, template)
    if ours and is_plain_backbone(template, fit.tensors):
        model, _ = from_backbone(name, file, **arguments, **gates)
        return model, Start("backbone", source, reference, digest, gates["gate_init"], training)
    fit = fit.but_for(classifier_names(template))  # of a classifier only one for as many classes
    if not fit.complete:
        raise CheckpointError(f"'{source}' is not for {name}: {fit}")
    model = timm.create_model(name, **arguments, **gates)
    model.load_state_dict(fit.tensors, strict=False)
    return model, Start("checkpoint", source, reference, digest, None, training)


def _locate(source: str) -> tuple[Path, str, bool]:
    """The safetensors file of a start, what a record calls it, and whether it is to be started at identity gates."""
    if Path(source).suffix == ".safetensors":
        return Path(source), Path(source).name, False
    found = find_pretrained(source)
    return found.file, found.reference, found.model_args.get("gate_init") == "identity"
