"""Pixels as a model expects them: timm's data config of the model, unless overridden."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import str_to_interp_mode
from torch import Tensor, nn
from torchvision.transforms import Compose, Grayscale

from timm_gam.core import ModelError

Transform = Callable[[Image.Image], Tensor]
"""An RGB image -> (3, H, W) float32, or uint8 where what follows normalises; (1, H, W) for a network in grey."""

_LARGEST_SIDE = 2**16
SHRINK_MARGIN = 4
"""A JPEG that is shrunk on load stays at least this many times as large as it is resized to.

From there on the input's pixels differ by what rounding to 8 bits does (`benchmarks/images/shrink_on_load.py`).
"""


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
        shrink_on_load: Let the JPEG decoder reduce images that stay SHRINK_MARGIN times as large as they are resized
            to. Not timm's: it decodes whole.

    >>> from PIL import Image
    >>> half = (0.5, 0.5, 0.5)
    >>> preprocessing = Preprocessing((3, 64, 64), 0.9, "center", "bicubic", mean=half, std=half)
    >>> preprocessing.transform()(Image.new("RGB", (90, 60))).shape
    torch.Size([3, 64, 64])
    """

    input_size: tuple[int, int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shrink_on_load: bool = False

    def transform(self) -> Transform:
        """timm's own evaluation transform: an RGB image -> (3, H, W) float32."""
        return self._timm_transform(normalize=True)

    def pixels(self) -> Transform:
        """The same up to its last step: an RGB image -> (3, H, W) uint8, a quarter of the bytes."""
        return self._timm_transform(normalize=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """The last step for a batch, on its device: (B, 3, H, W) uint8 -> float32, equal to the last digit."""
        # 255 as a tensor: by a number CUDA would multiply with 1 / 255, which rounds otherwise.
        full, mean, std = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
            for values in ((255.0,), self.mean, self.std)
        )
        return pixels.float().div_(full).sub_(mean).div_(std)

    def shrink(self, width: int, height: int) -> int:
        """By how much a JPEG decoder may reduce an upright image of this size: 1, 2, 4 or 8.

        Always a divisor of both sides: others are rounded up, which would stretch the image by a part of a pixel.
        """
        resized_height, resized_width = (math.floor(side / self.crop_pct) for side in self.input_size[1:])
        ratios = width / resized_width, height / resized_height
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)  # of the resize that follows
        fitting = (factor for factor in (8, 4, 2) if width % factor == height % factor == 0)
        return next((factor for factor in fitting if factor * SHRINK_MARGIN <= ratio), 1)

    def _timm_transform(self, normalize: bool) -> Transform:
        transform: Transform = create_transform(is_training=False, normalize=normalize, **self.of_weights())
        return Compose([Grayscale(), transform]) if self.input_size[0] == 1 else transform

    def of_weights(self) -> dict[str, Any]:
        """Plain values of what belongs to weights, under timm's names; not how a decoder saves work."""
        return {key: value for key, value in self.as_dict().items() if key != "shrink_on_load"}

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
    shrink_on_load: bool = False,
) -> Preprocessing:
    """The model's own preprocessing, with what is given put in its place.

    Raises:
        ModelError: an illegal value, another image size for a network whose size is fixed, or not 3 channels.

    >>> import timm
    >>> resolve_preprocessing(timm.create_model("resnet18"), img_size=160).input_size
    (3, 160, 160)
    """
    own = _own(model)
    channels, height, width = own.input_size
    if channels not in (1, 3):
        raise ModelError(f"the model takes {channels} channels; images have 3, or 1 in grey")
    fixed = getattr(model, "pretrained_cfg", {}).get("fixed_input_size", False)
    if img_size is not None and img_size != height and fixed:
        raise ModelError(f"the model's input is fixed at {height} x {width}; leave out --img-size {img_size}")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ModelError(f"crop share is {crop_pct}; legal: above 0, at most 1")
    given: dict[str, Any] = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation}
    given |= {"mean": tuple(mean or ()), "std": tuple(std or ()), "shrink_on_load": shrink_on_load}
    given["input_size"] = (channels, img_size or height, img_size or width)
    chosen = replace(own, **{name: value for name, value in given.items() if value})
    try:
        str_to_interp_mode(chosen.interpolation)
    except (KeyError, ValueError) as error:
        legal = "nearest, bilinear, bicubic, box, hamming, lanczos"
        raise ModelError(f"no interpolation '{chosen.interpolation}'; legal: {legal}") from error
    if min(chosen.std) <= 0:
        raise ModelError(f"std is {list(chosen.std)}; each must be above 0")
    return chosen


def _per_channel(values: list[float], channels: int) -> tuple[float, ...]:
    """A network of one channel takes the mean of what was meant for three, as timm's loaders do."""
    return (sum(values) / len(values),) if channels == 1 and len(values) == 3 else tuple(values)


def _own(model: nn.Module) -> Preprocessing:
    """The model's data config; with weights of a stranger it came from a config.json and may hold anything."""
    try:
        cfg = resolve_data_config({}, model=model)
        channels, height, width = (int(side) for side in cfg["input_size"])
        mean, std = (_per_channel([float(value) for value in cfg[name]], channels) for name in ("mean", "std"))
        if not (
            len(mean) == len(std) == channels
            and 0 < min(height, width) <= max(height, width) <= _LARGEST_SIDE
            and float(cfg["crop_pct"]) > 0
        ):
            raise ValueError("one mean and one std per channel, and sizes of 1 to 65,536 pixels, are needed")
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
