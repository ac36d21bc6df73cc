"""Small pictures that a page carries within itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from timm_gam.core import UnreadableImageError
from timm_gam.data import ImageSet
from timm_gam.images.decoding import load_image
from timm_gam.images.limits import DecodeLimits
from timm_gam.images.preprocessing import Preprocessing

_QUALITY = 60


def thumbnails(
    images: ImageSet, rows: list[int], side: int = 144, limits: DecodeLimits = DecodeLimits()
) -> Iterator[tuple[int, str]]:
    """Yield (row, data URI) for each readable image of the ascending `rows`, no side longer than `side` pixels.

    A URI of 144 pixels takes some 4 KB. Images that cannot be read are left out.
    """
    for row, encoded in images.reader.read(rows):
        try:
            picture, _ = load_image(encoded, images.ids[row], lambda w, h: _factor(w, h, side), limits)
        except UnreadableImageError:
            continue
        picture.thumbnail((side, side))
        yield row, data_uri(picture)


def data_uri(picture: Image.Image) -> str:
    """A picture as a WebP data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def as_seen(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """The picture that a network saw: (3, H, W) normalised float -> RGB."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    whole = ((pixels.cpu().float() * std + mean) * 255).round().clamp(0, 255).byte()
    return Image.fromarray(whole.permute(1, 2, 0).numpy())


def _factor(width: int, height: int, side: int) -> int:
    """By how much a JPEG may be reduced while it is decoded."""
    return next((factor for factor in (8, 4, 2) if max(width, height) >= factor * side), 1)
