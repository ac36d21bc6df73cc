"""Near duplicates against brute force, and against what people do to pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.helpers import picture, recompressed
from timm_gam.images import BITS, difference_hash, exact_groups, near_pairs

_NEAR_BITS = 12


def bits(a: Image.Image, b: Image.Image) -> int:
    return int((difference_hash(a) != difference_hash(b)).sum())


def test_copies_are_near_and_other_pictures_are_not() -> None:
    for seed in range(5):
        original = picture(seed)
        for copy in (
            recompressed(original, 60),
            original.resize((360, 240), Image.Resampling.LANCZOS),
            original.point(lambda value: value * 0.8),
            original.convert("L"),
        ):
            assert bits(original, copy) <= _NEAR_BITS
        assert bits(original, picture(seed + 100)) > 4 * _NEAR_BITS
        assert bits(original, original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 4 * _NEAR_BITS


@pytest.mark.parametrize("tile", [(1024, 2**14), (7, 11)])
def test_pairs_are_those_of_brute_force(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_gam.images.duplicates._ROWS", tile[0])
    monkeypatch.setattr("timm_gam.images.duplicates._COLUMNS", tile[1])
    rng = np.random.default_rng(0)
    hashes = np.repeat(rng.random((40, BITS)) < 0.5, 3, axis=0)
    hashes ^= rng.random(hashes.shape) < 0.02
    for most in (0, 5, 10, 256):
        expected = [
            (i, j, int((hashes[i] != hashes[j]).sum()))
            for i in range(len(hashes))
            for j in range(i + 1, len(hashes))
            if (hashes[i] != hashes[j]).sum() <= most
        ]
        assert list(near_pairs(hashes, most)) == expected


def test_exact_groups() -> None:
    assert exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
