"""What is to be published: a checkpoint, or a training run with its records, read and checked against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.models import get_arch_pretrained_cfgs, is_model_in_modules
from torch import Tensor, nn

import timm_gam  # registers our models  # noqa: F401
from eval import read_document
from timm_gam.core import RefusedError
from timm_gam.embed import Head, read_head
from timm_gam.models import (
    COREL_TAG,
    TrainingRecord,
    check_model_name,
    class_count,
    classifier_names,
    fit_tensors,
    name_some,
    read_safetensors,
    read_training_record,
    weights_digest,
)

BEST = "best.safetensors"
TRAINING_RECORDS = ("config.yaml", "data.json", "environment.json", "metrics.csv")


@dataclass(frozen=True)
class TrainedModel:
    """A checked checkpoint and its records.

    Attributes:
        architecture: Registered timm model name.
        tag: Of these weights: the repository is called "architecture.tag".
        tensors: The whole state dict, mapped from the file rather than read into memory.
        network: The network on the meta device: shapes without weights.
        sha256: `timm_gam.models.weights.checkpoint.weights_digest` of `tensors` as the network holds them.
        evaluation: A document of `python -m eval.retrieval`, or None where the weights were not scored.
        recipe: config.yaml of the training run, or None.
        data: data.json of the training run: classes, split, start weights; empty for a bare checkpoint.
        records: Name in the repository -> text of each training record.
        head: A head of these weights that is published with them, or None.
        training: What the checkpoint says of its training: preprocessing, and digests of its images.
    """

    architecture: str
    tag: str
    tensors: dict[str, Tensor]
    network: nn.Module
    sha256: str
    evaluation: dict[str, Any] | None
    recipe: dict[str, Any] | None
    data: Mapping[str, Any]
    records: Mapping[str, str]
    head: Head | None = None
    training: TrainingRecord = field(default_factory=TrainingRecord)

    @property
    def name(self) -> str:
        return f"{self.architecture}.{self.tag}"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the classifier, in its order; None where no record names them."""
        return tuple(self.data["class_names"]) if "class_names" in self.data else None

    @property
    def result(self) -> dict[str, Any] | None:
        """The entry of these weights in the evaluation document."""
        return None if self.evaluation is None else self.evaluation["results"][0]


def read_trained_model(model: str, checkpoint: Path, record: Path | None = None) -> TrainedModel:
    """Read a checkpoint and its records, and refuse whatever does not belong together.

    Args:
        model: "architecture.tag", or "architecture" of a run, whose tag is then the name of the images it trained on.
        checkpoint: A safetensors file, or a run folder of `python -m timm_gam.train`.
        record: JSON of `python -m eval.retrieval`; default the run folder's evaluation.json.

    Raises:
        RefusedError: tensors missing, unexpected, misshapen or not finite; class counts that differ; a record of other
            weights; no tag for a bare checkpoint; an unfinished run; or a training record that cannot be read.
        ModelError: no such model, or a checkpoint that cannot be read.
        DataError: a record that cannot be read.
    """
    architecture, _, tag = model.partition(".")
    run = checkpoint if checkpoint.is_dir() else None
    check_model_name(architecture)
    file = checkpoint / BEST if run else checkpoint
    tensors, training = read_safetensors(file), read_training_record(file)
    network = _network_for(architecture, tensors)
    tensors = _fitting(architecture, tensors, network)
    held = network.state_dict()  # a file may keep them in fewer bits than the network does
    sha256 = weights_digest({name: tensor.to(held[name].dtype) for name, tensor in tensors.items()})
    records = _training_records(run) if run else {}
    recipe = yaml.safe_load(records["config.yaml"]) if "config.yaml" in records else None
    _refuse_unfinished(checkpoint, recipe, records.get("metrics.csv"))
    data = json.loads(records["data.json"]) if "data.json" in records else {}
    if record is None and run is not None and (run / "evaluation.json").is_file():
        record = run / "evaluation.json"
    evaluation = _read_evaluation(record, architecture, sha256) if record else None
    trained = TrainedModel(
        architecture=architecture,
        tag=tag or _tag_of(data, architecture),
        tensors=tensors,
        network=network,
        sha256=sha256,
        evaluation=evaluation,
        recipe=recipe,
        data=data,
        records={f"training/{name}": text for name, text in records.items()},
        training=training,
    )
    _refuse_other_classes(trained)
    if recipe is not None and str(recipe.get("model", architecture)).partition(".")[0] != architecture:
        raise RefusedError(f"the run in '{run}' trained '{recipe['model']}', not '{architecture}'; name that model")
    return trained


def with_head(trained: TrainedModel, path: Path) -> TrainedModel:
    """The model with a head that `timm-gam head` trained on its embeddings.

    Raises:
        RefusedError: a head of other weights.
        CheckpointError: no head.
    """
    head = read_head(path)
    if head.facts.weights != trained.sha256:
        raise RefusedError(
            f"the head '{path}' was trained on other weights: {head.facts.weights[:12]}..., the checkpoint is "
            f"{trained.sha256[:12]}...; train it on this checkpoint with timm-gam head"
        )
    return replace(trained, head=head)


def _tag_of(data: Mapping[str, Any], architecture: str) -> str:
    """ "owner/corel@v1" -> "corel", "My Photos" -> "my_photos"."""
    name = str(data.get("name", "")).partition("@")[0].partition(" (")[0].rpartition("/")[2]
    tag = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not tag:
        raise RefusedError(
            f"no record says what these weights were trained on; name them {architecture}.TAG, the tag being their data"
        )
    return tag


def _network_for(architecture: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    ours = is_model_in_modules(architecture, ["attention_resnet"])
    cfg = COREL_TAG if ours else None  # the default may be of ImageNet weights, whose description is not that of these
    template = timm.create_model(architecture, pretrained_cfg=cfg, device="meta")
    classes = class_count(fit_tensors(tensors, template).tensors, template)
    if classes is None:
        classifier = ", ".join(f"'{name}weight'" for name in classifier_names(template))
        raise RefusedError(
            f"the checkpoint has no classifier {classifier}; publish the whole state dict of {architecture}"
        )
    network: nn.Module = timm.create_model(architecture, pretrained_cfg=cfg, device="meta", num_classes=classes)
    return network.eval()


def _fitting(architecture: str, tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The whole state dict under the network's names, the counters of batch norm with it."""
    fit = fit_tensors(tensors, network)
    whole = replace(fit, missing=tuple(name for name in network.state_dict() if name not in fit.tensors))
    if not whole.complete:
        raise RefusedError(f"the checkpoint does not fit {architecture}: {whole}; publish a whole state dict")
    if bad := [n for n, t in whole.tensors.items() if not is_finite(t)]:
        raise RefusedError(f"{len(bad)} tensors hold NaN or infinity ({name_some(bad)}); take an earlier checkpoint")
    return whole.tensors


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, found without a copy of it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # of float8 kinds no least and greatest is defined
        tensor = tensor.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _training_records(run: Path) -> dict[str, str]:
    """The records of a run as text, without the paths of the machine it ran on."""
    records = {}
    for name in TRAINING_RECORDS:
        try:
            text = (run / name).read_text(encoding="utf-8")
            if name.endswith(".json"):
                text = json.dumps(_without_paths(json.loads(text)), indent=1) + "\n"
            elif name.endswith(".yaml"):
                text = yaml.safe_dump(_without_paths(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RefusedError(
                f"cannot read '{run / name}': {error}; restore it, or publish the checkpoint alone"
            ) from error
        records[name] = text
    return records


def _without_paths(value: Any) -> Any:
    """The same value with every absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _read_evaluation(path: Path, architecture: str, sha256: str) -> dict[str, Any]:
    document = read_document(path).model_dump(mode="json", by_alias=True)
    results = [r for r in document["results"] if r["model"] and r["model"]["architecture"] == architecture]
    digests = [r["weights"]["sha256"] for r in results]
    if not results:
        raise RefusedError(f"the record '{path}' does not score {architecture}; name one that does")
    if sha256 not in digests:
        raise RefusedError(
            f"the record '{path}' scores other weights: {digests[0][:12]}..., the checkpoint is {sha256[:12]}...; "
            "evaluate this checkpoint with python -m eval.retrieval"
        )
    return {**document, "results": [results[digests.index(sha256)]]}


_OTHER_RUN = "publish what was trained on them"
_OTHER_TAG = f"{_OTHER_RUN}, or name another tag (a release without --tag takes the name of the run's images)"


def _refuse_unfinished(run: Path, recipe: Mapping[str, Any] | None, metrics: str | None) -> None:
    """The card gives the recipe as what was trained."""
    done, epochs = len((metrics or "").splitlines()) - 1, (recipe or {}).get("epochs")
    if metrics and isinstance(epochs, int) and done < epochs:
        raise RefusedError(
            f"the run in '{run}' is unfinished, after {done} of {epochs} epochs; finish it with --resume, or publish "
            f"its {BEST} alone"
        )


def _refuse_other_classes(trained: TrainedModel) -> None:
    classes = int(trained.network.num_classes)  # type: ignore[arg-type]
    cfg = get_arch_pretrained_cfgs(trained.architecture).get(trained.name)
    expected = {
        f"the tag {trained.name}": (cfg.num_classes if cfg is not None else None, _OTHER_TAG),
        "data.json": (len(trained.class_names) if trained.class_names is not None else None, _OTHER_RUN),
    }  # never what was scored: a test split may lack classes, or have others
    for where, (count, advice) in expected.items():
        if count is not None and count != classes:
            raise RefusedError(f"the classifier has {classes} classes and {where} {count}; {advice}")
