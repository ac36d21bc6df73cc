"""What is done to pixels: uint8 first and normalised later, and how much a JPEG may shrink while it is decoded."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from timm_gam.images import SHRINK_MARGIN, Preprocessing, load_image

USUAL = Preprocessing((3, 56, 56), 0.875, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalising_batches_changes_no_bit(crop_mode: str, memory_format: torch.memory_format) -> None:
    preprocessing = dataclasses.replace(USUAL, crop_mode=crop_mode)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)) for _ in range(4)]
    pixels = torch.stack([preprocessing.pixels()(image) for image in images])
    assert pixels.dtype == torch.uint8
    expected = torch.stack([preprocessing.transform()(image) for image in images])
    assert torch.equal(preprocessing.normalise(pixels.contiguous(memory_format=memory_format)), expected)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 56, 56), (3, 56, 112)])
def test_a_shrunk_photo_stays_large_enough(crop_mode: str, input_size: tuple[int, int, int]) -> None:
    preprocessing = dataclasses.replace(USUAL, crop_mode=crop_mode, input_size=input_size)
    resize = preprocessing.pixels().transforms[0]
    factors = set()
    for width, height in [
        (64, 64),
        (510, 600),
        (512, 512),
        (1400, 1200),
        (2000, 800),
        (800, 2000),
        (2048, 4000),
        (10000, 6000),
    ]:
        factor = preprocessing.shrink(width, height)
        factors.add(factor)
        photo = Image.new("RGB", (width, height))
        resized = resize(photo)
        room = min(width / resized.width, height / resized.height)
        assert factor == 1 or factor * SHRINK_MARGIN <= room * 1.02, "rounding to whole pixels aside"
        assert factor == 8 or 2 * factor * SHRINK_MARGIN > room * 0.98 or crop_mode == "squash"
    assert factors == {1, 2, 4, 8}


@pytest.mark.parametrize(
    ("size", "factor"), [((4096, 4096), 8), ((4092, 4096), 4), ((4096, 4090), 2), ((4095, 4096), 1)]
)
def test_a_photo_is_shrunk_by_divisors_of_its_sides(size: tuple[int, int], factor: int) -> None:
    assert USUAL.shrink(*size) == factor
    assert USUAL.shrink(*reversed(size)) == factor


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(512, 768), (1024, 1024), (2048, 2048)])
def test_a_shrunk_photo_differs_by_rounding(size: tuple[int, int], subsampling: str) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(50, 206, (16, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grained = np.asarray(coarse, dtype=np.float32) + rng.normal(scale=10.0, size=(size[1], size[0], 1))
    photo = io.BytesIO()
    Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8)).save(photo, "JPEG", quality=95, subsampling=subsampling)
    assert USUAL.shrink(*size) > 1
    transform = USUAL.pixels()
    whole, shrunk = (
        transform(load_image(photo.getvalue(), "photo", shrink)[0]).float() for shrink in (None, USUAL.shrink)
    )
    assert (whole - shrunk).square().mean().sqrt() < 0.8, "of 255; rounding each once makes 0.4"
    assert (whole - shrunk).mean().abs() < 0.3


def test_it_is_recorded() -> None:
    assert USUAL.as_dict()["shrink_on_load"] is False
    assert dataclasses.replace(USUAL, shrink_on_load=True).as_dict()["shrink_on_load"] is True
