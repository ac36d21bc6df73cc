"""A small image of every format that is read, for benchmarks/images/fuzz.py."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded_images() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8))
    smooth = noise.resize((64, 48))
    grey = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (smooth, "JPEG", {}), (smooth, "JPEG", {"progressive": True, "exif": exif}),
        (smooth.convert("CMYK"), "JPEG", {}),
        (smooth, "MPO", {"save_all": True, "append_images": [noise]}), (noise, "PNG", {}), (grey, "PNG", {}),
        (noise.convert("P"), "PNG", {}), (noise.convert("RGBA"), "WEBP", {}), (noise, "WEBP", {"lossless": True}),
        (noise, "BMP", {}), (noise, "GIF", {"save_all": True, "append_images": [noise]}), (noise, "TIFF", {}),
        (noise, "TIFF", {"compression": "tiff_lzw"}), (noise, "TIFF", {"compression": "jpeg"}), (grey, "TIFF", {}),
        (noise.convert("1"), "TIFF", {"compression": "group4"}), (noise, "TIFF", {"compression": "tiff_adobe_deflate"}),
    ]  # fmt: skip
    from timm_gam.data import FORMATS

    if "AVIF" in FORMATS:
        kinds.append((smooth, "AVIF", {}))
    encoded = []
    for image, kind, options in kinds:
        image.save(buffer := io.BytesIO(), kind, **options)
        encoded.append(buffer.getvalue())
    return encoded
