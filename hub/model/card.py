"""The card of a published model: metadata that the Hub renders, and the text people read, from the records alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_arch_pretrained_cfgs, is_model_in_modules

from eval import PAPER_TABLE, IntervalsRecord
from hub.cards import render_card
from hub.model.trained import TrainedModel
from timm_gam.core import RefusedError
from timm_gam.models import COREL_TAG, corel_repository, count_macs

_ATTENTION = {
    "gam": "GAM (channel attention by a two-layer perceptron, then spatial attention by two 7x7 convolutions; r = 16)",
    "se": "SE (r = 16)",
    "cbam": "CBAM (r = 16)",
}
PICTURE_NAME = "retrieval.webp"
IMAGES_PER_CLASS = 6
"""Of the scenes that the picture is of."""
_HEADLINE = ("hit@1", "hit@10", "precision@10", "ndcg@10", "map")
"""The metrics of the metadata; `evaluation.json` has them all."""
_METRIC_TYPES = {"precision": "precision", "hit": "hit-rate", "recall": "recall", "ndcg": "ndcg", "map": "map"}


@dataclass(frozen=True)
class ModelPage:
    """What a card says beyond the records.

    Attributes:
        repo_id: Where it is published.
        license: Hub identifier, such as "apache-2.0".
        base_model: Hub id of the weights the training started from, or None.
        dataset: Hub id of the data set of training, or None.
        scored: Hub id of the data set of the evaluation, or None.
    """

    repo_id: str
    license: str | None
    base_model: str | None
    dataset: str | None
    scored: str | None = None


def render_model_card(trained: TrainedModel, page: ModelPage, *, half: bool = False) -> str:
    """The README.md of a model repository.

    Raises:
        RefusedError: there is no licence to state.
    """
    if not page.license:
        raise RefusedError(f"no licence is known for {trained.name}; name the weights' licence with --license")
    result, network, record = trained.result, trained.network, trained.training
    cfg = get_arch_pretrained_cfgs(trained.architecture).get(trained.name)
    is_corel, attention = trained.tag == COREL_TAG, _attention_of(trained)
    described: Any = result["preprocessing"] if result else network.pretrained_cfg
    size = tuple(described["input_size"])
    prepared = result["preprocessing"] if result else record.preprocessing
    compared = is_corel and attention and trained.architecture.startswith("resnet50")
    return render_card(
        "model",
        _metadata(trained, page),
        trained=trained,
        page=page,
        half=half,
        result=result,
        intervals=IntervalsRecord.model_validate(result.get("intervals") or result["bootstrap"]) if result else None,
        is_corel=is_corel,
        names_corel=is_corel or "corel" in re.split(r"[^a-z]+", str(trained.data.get("name", "")).lower()),
        # by the time this is read; the release pins it after this
        is_registered=cfg and not cfg.file and is_corel and page.repo_id == corel_repository(trained.architecture),
        attention=attention,
        paper=PAPER_TABLE if compared else None,
        picture=PICTURE_NAME,
        images=30 * IMAGES_PER_CLASS,
        parameters=sum(p.numel() for p in network.parameters()),
        macs=count_macs(network, size),
        size=size,
        preprocessing=", ".join(f"{name} {value}" for name, value in prepared.items()),
        seen=len(record.trained) + len(record.validated),
        percent=_percent,
    )


def _metadata(trained: TrainedModel, page: ModelPage) -> ModelCardData:
    """Library, task, licence, origin and the metrics people look for."""
    results = None
    if trained.result is not None:
        data, protocol = trained.result["data"], trained.result["protocol"]
        results = [
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Image retrieval",
                dataset_type=page.scored or "imagefolder",
                dataset_name=f"{data['name']} ({protocol['name']})",
                dataset_split="test" if "test" in protocol["description"] else None,
                metric_type=_METRIC_TYPES.get(name.partition("@")[0], name.partition("@")[0]),
                metric_name=name,
                metric_value=round(average["micro"], 6),
            )
            for name, average in headline(trained.result).items()
        ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        license=page.license,
        base_model=page.base_model,
        datasets=[page.dataset] if page.dataset else None,
        metrics=list(headline(trained.result)) if trained.result else None,
        tags=["timm", "image-retrieval"],
        model_name=trained.name if results else None,
        eval_results=results,
    )


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a result's averages that people look for, by metric."""
    return {name: result["metrics"][name] for name in _HEADLINE if name in result["metrics"]}


def _attention_of(trained: TrainedModel) -> str | None:
    """What the attention of a variant of ours is, None for any other network."""
    ours = is_model_in_modules(trained.architecture, ["attention_resnet"])
    return (
        next((_ATTENTION[part] for part in trained.architecture.split("_") if part in _ATTENTION), None)
        if ours
        else None
    )


def _percent(value: float, interval: list[float] | None) -> str:
    return f"{100 * value:.2f}" + (f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else "")
