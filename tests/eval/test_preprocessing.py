"""What is done to pixels: uint8 first and normalised later, and how much a JPEG may shrink while it is decoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from eval.preprocessing import SHRINK_MARGIN, Preprocessing

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
        (255, 300),
        (256, 256),
        (700, 600),
        (1000, 400),
        (400, 1000),
        (1024, 2000),
        (5000, 3000),
    ]:
        factor = preprocessing.shrink(width, height)
        factors.add(factor)
        photo = Image.new("RGB", (width, height))
        resized = resize(photo)
        room = min(width / resized.width, height / resized.height)
        assert factor == 1 or factor * SHRINK_MARGIN <= room * 1.02, "rounding to whole pixels aside"
        assert factor == 8 or 2 * factor * SHRINK_MARGIN > room * 0.98 or crop_mode == "squash"
    assert factors == {1, 2, 4, 8}


def test_it_is_recorded() -> None:
    assert USUAL.as_dict()["shrink_on_load"] is False
    assert dataclasses.replace(USUAL, shrink_on_load=True).as_dict()["shrink_on_load"] is True
