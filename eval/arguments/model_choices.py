"""What --model and --checkpoint name -> models to load one by one, all checked before any image is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import timm
from timm.models import get_pretrained_cfg, is_model, is_model_in_modules, is_model_pretrained

from timm_gam.core import DataError, ModelError, TimmGamError
from timm_gam.images import resolve_preprocessing
from timm_gam.models import (
    LoadedModel,
    check_fit,
    check_model_name,
    find_pretrained,
    find_shipped,
    load_model,
    shipped_names,
)
from timm_gam.train import RunFolder, read_recipe


@dataclass(frozen=True)
class ModelChoice:
    """A model as it was asked for.

    Attributes:
        name: How tables call it.
        model: What `load_model` is asked for.
        checkpoint: A safetensors file, or None.
        pretrained: Without a checkpoint: pretrained weights, or random ones.
        seed: Of random weights.
    """

    name: str
    model: str
    checkpoint: Path | None = None
    pretrained: bool = True
    seed: int = 0

    def check(self) -> None:
        """Find the weights, and see that those of a file are of this model, without reading them.

        Raises:
            TimmGamError: no such model or tag, no such file, or weights that cannot be had.
        """
        if self.checkpoint is not None:
            check_fit(self.model, self.checkpoint)
        elif self.pretrained:
            find_pretrained(self.model)
        else:
            check_model_name(self.model)

    @property
    def remark(self) -> str | None:
        """What a reader must know of its weights: which attention is untrained."""
        ours = is_model_in_modules(self.model.partition(".")[0], ["attention_resnet"])
        cfg = get_pretrained_cfg(self.model) if ours and self.pretrained and self.checkpoint is None else None
        return f"{self.name}: {cfg.description}" if cfg and cfg.description else None

    def load(self) -> LoadedModel:
        """As `load_model`, under its name for tables; the network of a run takes images of the size it trained at."""
        loaded = load_model(self.model, checkpoint=self.checkpoint, pretrained=self.pretrained, seed=self.seed)
        if self.checkpoint is not None and not loaded.training.preprocessing:  # as of a run before files said so
            run = RunFolder(self.checkpoint.parent)
            is_run = self.checkpoint in (run.best, run.last) and run.config.is_file()
            if is_run and (size := read_recipe(run.config).get("img_size")):
                vars(loaded.model)["pretrained_cfg"]["input_size"] = (3, int(size), int(size))
                own = resolve_preprocessing(loaded.model).of_weights()
                loaded = replace(loaded, training=replace(loaded.training, preprocessing=own))
        return replace(loaded, info=replace(loaded.info, name=self.name))


def choose_models(
    names: Sequence[str], checkpoints: Sequence[str] | None = None, *, pretrained: bool = True, seed: int = 0
) -> tuple[list[ModelChoice], list[str]]:
    """The models that names, patterns, NAME=FILE and run folders stand for.

    Args:
        names: Each a name of `load_model`, NAME=FILE, a run folder, or a pattern with * or ?.
        checkpoints: Safetensors files, one per name in order.
        pretrained: Of names without a file: pretrained weights (True) or random ones.
        seed: Of random weights.

    Returns:
        The models, and of patterns the names that were left out because they have no weights.

    Raises:
        TimmGamError: something named is not there, or is there twice.
    """
    skipped: list[str] = []
    if checkpoints is not None:
        models = [match for name in names for match in matching_names(name)]
        if len(checkpoints) != len(models):
            raise ModelError(
                f"{len(checkpoints)} checkpoints came for {len(models)} models; name one per model, in order"
            )
        chosen = [ModelChoice(name, name, Path(file)) for name, file in zip(models, checkpoints, strict=True)]
    else:
        chosen, skipped = _without_checkpoints(names, pretrained, seed)
    repeated = {choice.name for choice in chosen if sum(choice == other for other in chosen) > 1}
    if repeated:
        raise ModelError(f"'{min(repeated)}' is named twice; name each model once")
    for choice in chosen:
        choice.check()
    if len({choice.name for choice in chosen}) < len(chosen):  # one architecture with several files
        chosen = [replace(c, name=f"{c.name}={c.checkpoint}") if c.checkpoint else c for c in chosen]
    short = [replace(choice, name=_without_folders(choice.name)) for choice in chosen]
    return (short if len({choice.name for choice in short}) == len(chosen) else chosen), skipped


def _without_folders(name: str) -> str:
    """A name for tables and records, which say nothing of where files lie: of an absolute path its last part."""
    model, equals, file = name.partition("=")
    path = Path(file if equals else name)
    if not path.is_absolute():
        return name
    return f"{model}={path.name}" if equals else path.name


def _without_checkpoints(names: Sequence[str], pretrained: bool, seed: int) -> tuple[list[ModelChoice], list[str]]:
    chosen: list[ModelChoice] = []
    skipped: list[str] = []
    for name in names:
        model, equals, file = name.partition("=")
        if equals:
            chosen.append(ModelChoice(name, model, Path(file)))
        elif is_pattern(name):
            matches = [ModelChoice(match, match, pretrained=pretrained, seed=seed) for match in matching_names(name)]
            having = [choice for choice in matches if not pretrained or _has_weights(choice)]
            if not having:
                raise ModelError(f"none of the {len(matches)} models that match '{name}' has weights; --no-pretrained")
            chosen += [choice for choice in having if choice not in chosen]
            skipped += [choice.name for choice in matches if choice not in having]
        elif (folder := RunFolder(Path(name))).config.is_file() and not is_model(name):
            if not folder.best.is_file():
                raise DataError(f"the run in '{name}' has no {folder.best.name} yet; let it finish an epoch")
            model = str(read_recipe(folder.config).get("model", "")).partition(".")[0]
            chosen.append(ModelChoice(name, model, folder.best))
        elif name.endswith(".safetensors"):
            raise ModelError(f"'{name}' is a file; say which model it is for: --model MODEL={name}")
        else:
            chosen.append(ModelChoice(name, name, pretrained=pretrained, seed=seed))
    return chosen, skipped


def _has_weights(choice: ModelChoice) -> bool:
    """Whether a model that a pattern matched has weights that can be had."""
    with suppress(TimmGamError):
        if find_shipped(choice.model) is not None or is_model_pretrained(choice.model):
            choice.check()
            return True
    return False


def is_pattern(name: str) -> bool:
    """Whether a name stands for all models that it matches."""
    return any(c in name for c in "*?[")


def matching_names(name: str) -> list[str]:
    """The models that a pattern stands for, with tags those that are pretrained; of a name itself.

    Raises:
        ModelError: none matches.
    """
    if not is_pattern(name):
        return [name]
    names: list[str] = timm.list_models(name, pretrained="." in name)
    if "." in name:  # timm knows no tag of ours of its own networks
        names += [shipped for shipped in fnmatch.filter(shipped_names(), name) if shipped not in names]
    if not names:
        raise ModelError(f"no model matches '{name}'; list them with timm.list_models('{name.strip('*')}*')")
    return names
