"""A trained model -> the files of its Hub repository, as timm reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import Tensor

from eval import Settings, draw_synthetic, evaluate, ranking_picture, write_hub_scores
from hub.model.card import IMAGES_PER_CLASS, PICTURE_NAME, ModelPage, headline, render_model_card
from hub.model.trained import TrainedModel, is_finite
from timm_gam.core import ProgressBar, RefusedError, atomic_path, no_progress, write_json, write_text
from timm_gam.embed import EmbedSettings
from timm_gam.models import HEAD_KEY, HEAD_NAME, WEIGHTS_NAME, name_some, save_tensors

_QUERIES = ("reef/0000", "night_city/0000", "mushrooms/0000")  # the first of three classes, whatever is found for them


def write_model_repository(
    folder: Path, trained: TrainedModel, page: ModelPage, *, half: bool = False, progress: ProgressBar = no_progress
) -> None:
    """Write model.safetensors, config.json, README.md with its picture, and the records to a folder.

    The same model gives the same bytes, so that publishing it again changes nothing.

    Args:
        folder: Made where it does not exist.
        trained: What is published.
        page: What its card says beside it.
        half: Store floating point tensors as float16.
        progress: Makes a bar for what is embedded for the card's picture.

    Raises:
        DataError: what was scored has no Hub id.
        RefusedError: a weight that float16 cannot hold, or a head with float16 weights.
        OutputError: the folder cannot be written.
    """
    if half and trained.head is not None:
        raise RefusedError("a head belongs to weights to the last bit, which float16 does not keep; leave out --fp16")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _as_half(trained) if half else dict(trained.tensors)
    data_config = _data_config(trained)
    about = replace(trained.training, preprocessing=data_config or {}).as_plain()
    save_tensors(folder / WEIGHTS_NAME, tensors, about)
    with atomic_path(folder / "config.json") as temporary:
        save_config_for_hf(trained.network, str(temporary), _model_config(trained), data_config=data_config)
    if trained.head is not None:
        trained.head.save(folder / HEAD_NAME)
    _write_picture(folder, progress)
    write_text(folder / "README.md", render_model_card(trained, page, half=half))
    if trained.evaluation is not None:
        write_json(folder / "evaluation.json", trained.evaluation)
    if (result := trained.result) is not None and page.scored is not None:
        (folder / ".eval_results").mkdir(exist_ok=True)  # the folder the Hub reads
        scores, protocol = {name: average["micro"] for name, average in headline(result).items()}, result["protocol"]
        file = folder / ".eval_results" / "retrieval.yaml"
        write_hub_scores(file, page.scored, scores, protocol["description"], protocol["distance"])
    for name, text in trained.records.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)


def _write_picture(folder: Path, progress: ProgressBar) -> None:
    """Rank the drawn scenes by the weights in a repository's folder, and write the first results as a picture."""
    scenes = draw_synthetic(IMAGES_PER_CLASS)
    settings = Settings(EmbedSettings(workers=0), intervals="none")  # this process keeps scenes that it has drawn
    result = evaluate(f"local-dir:{folder}", scenes, settings=settings, progress=progress)
    with atomic_path(folder / PICTURE_NAME) as temporary:
        ranking_picture(result, scenes, _QUERIES).save(temporary, "webp", quality=80)


def _as_half(trained: TrainedModel) -> dict[str, Tensor]:
    halves = {n: t.half() if t.is_floating_point() else t for n, t in trained.tensors.items()}
    if lost := [n for n, t in halves.items() if not is_finite(t)]:
        raise RefusedError(f"float16 cannot hold {len(lost)} tensors ({name_some(lost)}); leave out --fp16")
    return halves


def _model_config(trained: TrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = {"pretrained_cfg": {"tag": trained.tag}}
    if trained.class_names is not None:
        config["label_names"] = list(trained.class_names)
    if trained.head is not None:
        config[HEAD_KEY] = True
    return config


def _data_config(trained: TrainedModel) -> dict[str, Any] | None:
    """The preprocessing the weights were scored with, where they were, or trained with; else the architecture's own."""
    if trained.result is None:
        return dict(trained.training.preprocessing) or None
    return {key: value for key, value in trained.result["preprocessing"].items() if key != "shrink_on_load"}
