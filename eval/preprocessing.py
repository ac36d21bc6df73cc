"""Pixels as a model expects them: timm's data config of the model, unless overridden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from timm.data import create_transform, resolve_data_config
from timm.data.transforms import str_to_interp_mode
from torch import nn

from eval.embedding import Transform
from eval.errors import ModelError

__all__ = ["Preprocessing", "resolve_preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the network's input, in timm's terms.

    Attributes:
        input_size: (channels, height, width).
        crop_pct: The crop as a share of the resized image, above 0; in a few of timm's models above 1, which pads.
        crop_mode: "center", "squash" or "border".
        interpolation: Of the resize, such as "bicubic".
        mean: Subtracted from values in [0, 1], per channel.
        std: Divides after that, per channel.
    """

    input_size: tuple[int, int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def transform(self) -> Transform:
        """timm's own evaluation transform: an RGB image -> (3, H, W) float32."""
        transform: Transform = create_transform(is_training=False, **asdict(self))
        return transform

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and cache keys."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def resolve_preprocessing(
    model: nn.Module,
    *,
    img_size: int | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """The model's own preprocessing, with what is given put in its place.

    Raises:
        ModelError: an illegal value, another image size for a network whose size is fixed, or not 3 channels.
    """
    own = _own(model)
    channels, height, width = own.input_size
    if channels != 3:
        raise ModelError(f"the model takes {channels} channels; images have 3")
    fixed = getattr(model, "pretrained_cfg", {}).get("fixed_input_size", False)
    if img_size is not None and img_size != height and fixed:
        raise ModelError(f"the model's input is fixed at {height} x {width}; leave out --img-size {img_size}")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ModelError(f"crop share is {crop_pct}; legal: above 0, at most 1")
    chosen = Preprocessing(
        input_size=(3, img_size or height, img_size or width),
        crop_pct=crop_pct or own.crop_pct,
        crop_mode=crop_mode or own.crop_mode,
        interpolation=interpolation or own.interpolation,
        mean=tuple(mean or own.mean),
        std=tuple(std or own.std),
    )
    try:
        str_to_interp_mode(chosen.interpolation)
    except (KeyError, ValueError) as error:
        legal = "nearest, bilinear, bicubic, box, hamming, lanczos"
        raise ModelError(f"no interpolation '{chosen.interpolation}'; legal: {legal}") from error
    if min(chosen.std) <= 0:
        raise ModelError(f"std is {list(chosen.std)}; each must be above 0")
    return chosen


def _own(model: nn.Module) -> Preprocessing:
    """The model's data config; with weights of a stranger it came from a config.json and may hold anything."""
    try:
        cfg = resolve_data_config({}, model=model)
        channels, height, width = (int(side) for side in cfg["input_size"])
        mean, std = (tuple(float(value) for value in cfg[name]) for name in ("mean", "std"))
        if not (len(mean) == len(std) == channels and min(height, width) > 0 and float(cfg["crop_pct"]) > 0):
            raise ValueError("one mean and one std per channel, and sizes above 0, are needed")
        return Preprocessing(
            (channels, height, width),
            float(cfg["crop_pct"]),
            str(cfg["crop_mode"]),
            str(cfg["interpolation"]),
            mean,
            std,
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise ModelError(f"the model's data config cannot be used: {error}; correct its config.json") from error
