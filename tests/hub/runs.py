"""Run folders as `python -m timm_gam.train` leaves them, with weights that nobody trained but everybody scored."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
import yaml
from safetensors.torch import save_file

import timm_gam  # noqa: F401  registers the models
from eval import Settings, choose_protocol, document, evaluate
from tests.helpers import write_class_folders
from timm_gam.core import write_json
from timm_gam.data import read_folder
from timm_gam.embed import EmbedSettings
from timm_gam.images import resolve_preprocessing
from timm_gam.models import load_model

CLASSES = 80  # as the tag .corel has


def write_checkpoint(path: Path, model: str = "test_resnet_gam", seed: int = 0, classes: int = CLASSES) -> Path:
    """The whole state dict of an untrained model."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model(model, num_classes=classes).state_dict(), path)
    return path


def evaluate_checkpoint(record: Path, model: str, checkpoint: Path) -> Path:
    """Score a checkpoint on a few drawn images, as python -m eval.retrieval does."""
    photos = record.parent / "photos"
    if not photos.is_dir():
        write_class_folders(photos, classes=CLASSES, images=2)
    images = read_folder(photos)
    loaded = load_model(model, checkpoint=checkpoint)
    result = evaluate(
        loaded,
        images,
        choose_protocol(images, "leave-one-out"),
        preprocessing=resolve_preprocessing(loaded.model, img_size=32),
        settings=Settings(EmbedSettings(batch_size=12, workers=0), intervals="queries", ks=(1, 10)),
    )
    write_json(record, document([result]))
    return record


def write_run(folder: Path, model: str, seed: int = 0, start: str = "hf-hub:somebody/backbone@v1") -> Path:
    """A finished run."""
    checkpoint = write_checkpoint(folder / "best.safetensors", model, seed)
    evaluate_checkpoint(folder / "evaluation.json", model, checkpoint)
    recipe = {"model": model, "start": start, "data_dir": "/home/someone/secret/photos", "epochs": 2, "lr": 0.01}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    data = {"name": "corel", "class_names": [f"class{i}" for i in range(CLASSES)], "start": {"source": start}}
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "environment.json").write_text(json.dumps({"versions": {"python": "3"}}))
    (folder / "metrics.csv").write_text("epoch,lr\n0,0.01\n1,0.005\n")
    return folder
