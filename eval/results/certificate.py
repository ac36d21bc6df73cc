"""What became of every image before the network saw it, and how its embedding was compared: enough to do it again.

Two pipelines that say the same of themselves may still differ (a decoder's version, antialiasing), so the certificate
also holds what came out for two fixed images: one drawn, one JPEG.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features
from pydantic import BaseModel, ConfigDict, Field

from timm_gam.embed import EmbedSettings
from timm_gam.images import Preprocessing, load_image
from timm_gam.search import Distance

_JPEG = Path(__file__).with_name("certificate.jpg")


class Certificate(BaseModel):
    """How pixels were made and compared. Equal certificates make equal embeddings, but for rounding of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: str = Field(description="To what size an image is resized before the crop.")
    crop: str = Field(description="What is cut from it.")
    interpolation: str
    antialias: bool = Field(description="Whether shrinking averages all pixels, as Pillow does, or samples some.")
    colour_order: str = "RGB"
    exif_orientation: str = "applied"
    mean: tuple[float, ...] = Field(description="Subtracted from values in [0, 1].")
    std: tuple[float, ...]
    shrink_on_load: bool
    pooling: str = Field(description="Which layer of the network is the embedding.")
    precision: str
    normalisation: str = Field(description="What is done to embeddings before they are compared.")
    decoder: dict[str, str] = Field(description="Pillow and the libraries it decodes with.")
    drawn_sha256: str = Field(description="Of the float32 pixels made of a drawn image of 128 x 96.")
    jpeg_sha256: str = Field(description="Likewise of a JPEG of 64 x 48: differs where the decoder does.")


def certify(preprocessing: Preprocessing, settings: EmbedSettings, distance: Distance) -> Certificate:
    """The certificate of a run.

    >>> from timm_gam.embed import EmbedSettings
    >>> from timm_gam.images import resolve_preprocessing
    >>> import timm
    >>> certify(resolve_preprocessing(timm.create_model("test_resnet")), EmbedSettings(), "cosine").crop
    'center 160 x 160'
    """
    _, height, width = preprocessing.input_size
    sides = tuple(math.floor(side / preprocessing.crop_pct) for side in (height, width))
    how = {"squash": "both sides", "border": "longer side"}.get(preprocessing.crop_mode, "shorter side")
    transform = preprocessing.transform()

    def pixels(image: Image.Image) -> str:
        return hashlib.sha256(transform(image).contiguous().numpy().tobytes()).hexdigest()

    return Certificate(
        resize=f"{how} to {sides[1]} x {sides[0]}",
        crop=f"{preprocessing.crop_mode} {width} x {height}",
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.interpolation != "nearest",
        mean=preprocessing.mean,
        std=preprocessing.std,
        shrink_on_load=preprocessing.shrink_on_load,
        pooling=settings.layer if not settings.views else f"{settings.layer}, {json.dumps(settings.views)}",
        precision=str(settings.amp_dtype or "float32").removeprefix("torch."),
        normalisation="L2" if distance == "cosine" else "none",
        decoder=_decoder(),
        drawn_sha256=pixels(_drawn()),
        jpeg_sha256=pixels(load_image(_JPEG, "certificate")[0]),
    )


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value in a, value in b) of everything in which two nested mappings differ.

    >>> differences({"crop": 1, "mean": {"r": 0.5}}, {"crop": 1, "mean": {"r": 0.4}})
    [('mean.r', 0.5, 0.4)]
    """
    found = []
    for key in [*a, *(key for key in b if key not in a)]:
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append((f"{prefix}{key}", left, right))
    return found


def _decoder() -> dict[str, str]:
    turbo = features.version_feature("libjpeg_turbo")
    found = {"libjpeg_turbo": turbo, "zlib": features.version("zlib"), "webp": features.version("webp")}
    return {"pillow": PIL.__version__, **{name: version for name, version in found.items() if version}}


def _drawn() -> Image.Image:
    y, x = np.mgrid[0:96, 0:128]
    channels = (x * 2) % 256, (y * 5 + x) % 256, ((x - 64) ** 2 + (y - 48) ** 2) // 12 % 256
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
