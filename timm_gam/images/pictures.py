"""Small pictures that a page carries within itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from timm_gam.core import UnreadableImageError
from timm_gam.data import EncodedImage, ImageSet
from timm_gam.images.decoding import load_image
from timm_gam.images.limits import DecodeLimits
from timm_gam.images.preprocessing import Preprocessing

_SIDE, _QUALITY = 144, 60


def thumbnails(images: ImageSet, rows: list[int], limits: DecodeLimits = DecodeLimits()) -> Iterator[tuple[int, str]]:
    """Yield (row, data URI) for each readable image of the ascending `rows`, no side longer than 144 pixels.

    A URI takes some 4 KB. Images that cannot be read are left out.
    """
    for row, encoded in images.reader.read(rows):
        try:
            picture = small_picture(encoded, images.ids[row], _SIDE, limits)
        except UnreadableImageError:
            continue
        yield row, data_uri(picture)


def small_picture(
    encoded: EncodedImage, image_id: str, side: int, limits: DecodeLimits = DecodeLimits()
) -> Image.Image:
    """An image no side of which is longer than `side` pixels; a large JPEG is reduced while it is decoded.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    picture, _ = load_image(
        encoded, image_id, lambda w, h: next((f for f in (8, 4, 2) if max(w, h) >= f * side), 1), limits
    )
    picture.thumbnail((side, side))
    return picture


def network_inputs(
    images: ImageSet, rows: Iterable[int], preprocessing: Preprocessing, limits: DecodeLimits = DecodeLimits()
) -> Iterator[tuple[int, Tensor]]:
    """Yield (row, (3, H, W) float32) of images as a network gets them: a few, in this process, in the order of `rows`.

    Raises:
        UnreadableImageError: one cannot be decoded.
    """
    transform = preprocessing.transform()
    shrink = preprocessing.shrink if preprocessing.shrink_on_load else None
    for row, encoded in images.reader.read(list(rows)):
        yield row, transform(load_image(encoded, images.ids[row], shrink, limits)[0])


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


def picture_grid(rows: Sequence[Sequence[tuple[Image.Image, str | None]]], lead: int = 0) -> Image.Image:
    """Rows of pictures on white, each fitted into a cell and framed in a colour, or in none.

    Args:
        rows: (picture, colour name or None) from left to right.
        lead: Pixels between the first picture of a row and the others, beside the usual gap.
    """
    cell, gap = (144, 96), 6
    width, height = cell[0] + gap, cell[1] + gap
    page = Image.new("RGB", (max(map(len, rows)) * width + gap + lead, len(rows) * height + gap), "white")
    pen = ImageDraw.Draw(page)
    for line, pictures in enumerate(rows):
        for column, (picture, colour) in enumerate(pictures):
            x, y = gap + column * width + (lead if column else 0), gap + line * height
            page.paste(ImageOps.pad(picture.convert("RGB"), cell, color="white"), (x, y))
            if colour is not None:
                pen.rectangle([x - 3, y - 3, x + cell[0] + 2, y + cell[1] + 2], outline=colour, width=3)
    return page
