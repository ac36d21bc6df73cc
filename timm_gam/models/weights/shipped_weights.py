"""The tiny family's weights, which ship in the package: pretrained models with no network at all.

Each folder in `timm_gam/models/shipped` is what `python -m hub.publish` makes of a training run: float16 weights,
timm's config.json, the record of the test split and the training's records. `python -m timm_gam.train` made the
runs from scratch on CorelDB at 64 x 64 pixels; MODEL_CARD.md has their recipe and their scores.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_names() -> list[str]:
    """Names of the shipped weights, "architecture.tag"; `test_resnet.corel` is the plain baseline, on timm's network.

    All load by `eval.load_model(name)`; timm's create_model knows those of our variants by name, and the plain one as
    "local-dir:" with the folder that `find_shipped` gives.
    """
    return sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())


def find_shipped(name: str) -> Path | None:
    """The folder (config.json, model.safetensors, records) of "architecture.tag", or None where none ships."""
    return SHIPPED / name if name in shipped_names() else None
