"""The card of a published model: metadata that the Hub renders, and the text people read, from the records alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_arch_pretrained_cfgs, is_model_in_modules

from eval import PAPER_TABLE, IntervalsRecord
from hub.model.picture import IMAGES_PER_CLASS, PICTURE_NAME
from hub.model.trained import TrainedModel
from timm_gam.core import RefusedError, markdown_code, markdown_text
from timm_gam.models import COREL_TAG, corel_repository, count_macs

_PAPER = "Tang, Jiang, Yang, Research on Image Retrieval Algorithms Based on Global Attention Mechanism (2023)"
_ATTENTION = {
    "gam": "GAM (channel attention by a two-layer perceptron, then spatial attention by two 7x7 convolutions; r = 16)",
    "se": "SE (r = 16)",
    "cbam": "CBAM (r = 16)",
}
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
    sections = [
        f"# {markdown_text(trained.name)}",
        _introduction(trained),
        _picture(),
        _usage(trained, page),
        _limits(trained),
        _model(trained, half),
        _training(trained),
        _evaluation(trained, half),
        _citation(),
    ]
    return f"---\n{_metadata(trained, page).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


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
            for name, average in _headline(trained.result).items()
        ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        license=page.license,
        base_model=page.base_model,
        datasets=[page.dataset] if page.dataset else None,
        metrics=list(_headline(trained.result)) if trained.result else None,
        tags=["timm", "image-retrieval"],
        model_name=trained.name if results else None,
        eval_results=results,
    )


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result["metrics"][name] for name in _HEADLINE if name in result["metrics"]}


def _introduction(trained: TrainedModel) -> str:
    kind = _attention_of(trained)
    what = f"a ResNet with {_ATTENTION[kind]} in every residual block" if kind else "a network"
    data = trained.data.get("name")
    trained_on = f", trained on {markdown_text(str(data))}" if data else ""
    sentence = f"`{trained.architecture}`, {what}, for image retrieval{trained_on}."
    if trained.tag == COREL_TAG:
        return f"{sentence} It belongs to the comparison of plain, SE, CBAM and GAM ResNets after {_PAPER}."
    if trained.result is not None:
        result = trained.result
        hit, queries = result["metrics"].get("hit@1"), result["protocol"]["queries_scored"]
        if hit is not None:
            share = f"{100 * hit['micro']:.1f} %"
            return f"{sentence} Of {queries:,} queries, {share} had an image of their own class ranked first."
    return f"{sentence} Images are alike where their embeddings are close, by cosine."


def _picture() -> str:
    images = 30 * IMAGES_PER_CLASS
    return f"""![Three queries and the six images ranked first for each, errors in red]({PICTURE_NAME})

*Left a query, then what these weights rank first among {images} scenes of 30 classes, drawn by code; errors in red.*"""


def _usage(trained: TrainedModel, page: ModelPage) -> str:
    cfg = get_arch_pretrained_cfgs(trained.architecture).get(trained.name)
    named = trained.tag == COREL_TAG and page.repo_id == corel_repository(trained.architecture)
    registered = cfg is not None and not cfg.file and named  # by the time this is read; the release pins it after this
    name = trained.name if registered else f"hf-hub:{page.repo_id}"
    by_page = (
        f'\n# or: timm.create_model("hf-hub:{page.repo_id}", pretrained=True, num_classes=0)' if registered else ""
    )
    return f"""```python
import timm
import timm_gam  # registers the models; without this import timm answers "Unknown model"

model = timm.create_model("{name}", pretrained=True, num_classes=0)
embeddings = model.eval()(images)  # (B, 3, H, W) -> (B, {_width(trained)}){by_page}
```

`python -m eval.retrieval --model hf-hub:{page.repo_id} --data-dir photos` scores it on images of yours.
{_head(trained)}"""


def _head(trained: TrainedModel) -> str:
    if trained.head is None:
        return ""
    facts, layers = trained.head.facts, " -> ".join(map(str, trained.head.layers))
    return f"""There and in `timm-gam search` its embeddings pass a head, `head.safetensors` ({facts.loss}, {layers},
trained on {facts.trained_on}); `--head none` leaves it out, and timm itself knows nothing of it."""


def _limits(trained: TrainedModel) -> str:
    corel = """ Trained on COREL photographs, which are
small, old, and of few subjects; expect less on anything else. They are under Corel's copyright, and these weights come
without them."""
    return f"""## Intended use and limits

For research on image retrieval: finding photographs of the same class as a query, where "relevant" means "of the same
class", nothing finer. Not made to identify people, nor tested for it.{corel if _names_corel(trained) else ""}"""


def _model(trained: TrainedModel, half: bool) -> str:
    size = tuple(trained.result["preprocessing"]["input_size"]) if trained.result else None
    size = size or tuple(trained.network.pretrained_cfg["input_size"])  # type: ignore[index]
    params = sum(p.numel() for p in trained.network.parameters())
    macs = count_macs(trained.network, size) / 1e9
    stored = "float16; compute in float32" if half else "float32"
    rows = {
        "architecture": f"`{trained.architecture}`",
        "parameters": f"{params:,}, with a classifier of {trained.network.num_classes} classes",
        "GMACs": f"{macs:.3f} at {size[1]} x {size[2]} pixels",
        "embedding": f"{_width(trained)} values, globally pooled",
        "weights": f"{stored}; SHA-256 over tensors {trained.sha256}" + (" before rounding" if half else ""),
    }
    if said := trained.result["preprocessing"] if trained.result else trained.training.preprocessing:
        rows["preprocessing"] = markdown_code(", ".join(f"{name} {value}" for name, value in said.items()))
    if seen := len(trained.training.trained) + len(trained.training.validated):
        rows["training images"] = (
            f"8 bytes of the SHA-256 of each of {seen:,} stand in the weights file, so that scoring any of them is said"
        )
    return "## Model\n\n" + _table(("property", "value"), list(rows.items()))


def _training(trained: TrainedModel) -> str:
    if trained.recipe is None:
        return "## Training\n\nNo training record came with these weights."
    rows = [
        (key, markdown_code(str(value))) for key, value in trained.recipe.items() if value not in (None, [], {}, False)
    ]
    return (
        "## Training\n\nThe effective recipe; the files in `training/` hold it whole, with the split, the versions and "
        "every epoch.\n\n" + _table(("setting", "value"), rows)
    )


def _evaluation(trained: TrainedModel, half: bool) -> str:
    if trained.result is None:
        return "## Evaluation\n\nThese weights have not been scored; no figure is claimed for them."
    result = trained.result
    data, protocol = result["data"], result["protocol"]
    intervals = IntervalsRecord.model_validate(result.get("intervals") or result["bootstrap"])
    rows = [
        (name, _percent(a["micro"], a["micro_ci95"]), _percent(a["macro"], a["macro_ci95"]))
        for name, a in result["metrics"].items()
    ]
    name, description, split = map(markdown_text, (data["name"], protocol["description"], protocol["split_rule"]))
    lines = [
        f"Data: {name}, {data['images']} images in {data['classes']} classes, fingerprint "
        f"`{data['fingerprint'][:16]}`. Protocol: {description}; {protocol['queries_scored']} queries, "
        f"{protocol['gallery']} gallery images, {protocol['distance']}, ties: {protocol['ties']}. "
        f"Split: {split}. Intervals: 95 %, {intervals.meaning} "
        f"({markdown_text(intervals.method)}). Computed in {result['precision']}"
        + (", from the weights before they were rounded to float16." if half else "."),
        "Micro is the mean over queries, macro the mean over classes, both in per cent. `evaluation.json` has the "
        "whole record: definitions, classes, preprocessing, versions and hardware.",
        _table(("metric", "micro, %", "macro, %"), rows),
    ]
    if trained.tag == COREL_TAG and trained.architecture.startswith("resnet50") and _attention_of(trained):
        lines += _paper()
    return "## Evaluation\n\n" + "\n\n".join(lines)


def _paper() -> list[str]:
    return [
        "### What the paper reports\n\nAnother experiment: COREL-10K, its own weights and its own split. Its Top-K is "
        "hit@K. Not to be compared digit by digit with the table above.",
        _table(
            ("paper", "parameters", "Top-1 (hit@1), %", "Top-10 (hit@10), %"),
            [(name, params, f"{top1:.2f}", f"{top10:.2f}") for name, params, top1, top10 in PAPER_TABLE],
        ),
    ]


def hub_results(trained: TrainedModel, page: ModelPage) -> list[dict[str, Any]]:
    """Entries of `.eval_results/*.yaml`, in per cent; none where no data set of the Hub was scored."""
    if trained.result is None or page.scored is None:
        return []
    protocol = trained.result["protocol"]
    notes = f"{protocol['description']}; {protocol['distance']}; ties by expectation; timm-gam"
    return [
        {"dataset": {"id": page.scored, "task_id": name}, "value": round(100 * average["micro"], 4), "notes": notes}
        for name, average in _headline(trained.result).items()
    ]


def _names_corel(trained: TrainedModel) -> bool:
    """Whether the tag or the record of the training says that COREL photographs were trained on."""
    return trained.tag == COREL_TAG or "corel" in re.split(r"[^a-z]+", str(trained.data.get("name", "")).lower())


def _citation() -> str:
    return """## Citation

```bibtex
@article{tang2023retrieval,
  title  = {Research on Image Retrieval Algorithms Based on Global Attention Mechanism},
  author = {Tang and Jiang and Yang},
  year   = {2023},
  note   = {Hans Publishers}
}
@article{liu2021global,
  title   = {Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions},
  author  = {Liu, Yichao and Shao, Zongru and Hoffmann, Nico},
  journal = {arXiv:2112.05561},
  year    = {2021}
}
```"""


def _attention_of(trained: TrainedModel) -> str | None:
    """ "gam", "se" or "cbam" for a variant of ours, None for any other network."""
    ours = is_model_in_modules(trained.architecture, ["attention_resnet"])
    return next((part for part in trained.architecture.split("_") if part in _ATTENTION), None) if ours else None


def _width(trained: TrainedModel) -> int:
    return int(trained.network.num_features)  # type: ignore[arg-type]


def _percent(value: float, interval: list[float] | None) -> str:
    return f"{100 * value:.2f}" + (f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else "")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
