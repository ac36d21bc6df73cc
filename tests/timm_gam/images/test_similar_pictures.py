"""Likeness against brute force, and against what people do to pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import timm_gam.images.identity.similar_pictures as module
from tests.helpers import picture, recompressed
from timm_gam.images import NEAR, SIGNATURE_BYTES, alike_groups, alike_pairs, likeness, signature


def alike(a: Image.Image, b: Image.Image) -> float:
    return float(likeness(signature(a)[None], signature(b)[None]))


def test_copies_are_near_and_other_pictures_are_not() -> None:
    for seed in range(5):
        original = picture(seed)
        for copy in (
            recompressed(original, 60),
            original.resize((360, 240), Image.Resampling.LANCZOS),
            original.point(lambda value: value * 0.8),
            original.convert("L"),
            original.crop((2, 1, 178, 119)),
        ):
            assert alike(original, copy) > NEAR
        assert alike(original, picture(seed + 100)) < 0.5
        assert alike(original, original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.5
    flat = Image.new("RGB", (9, 9), "red")
    assert alike(flat, Image.new("RGB", (30, 20), "blue")) == 1
    assert alike(flat, picture(0)) == 0


def test_likeness_is_the_correlation_of_gradients() -> None:
    images = [picture(seed) for seed in range(6)]
    small = np.array([np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), float) for image in images])
    gradients = np.concatenate([np.diff(small, axis=axis).reshape(6, -1) for axis in (1, 2)], axis=1)
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    signatures = np.array([signature(image) for image in images])
    assert signatures.shape == (6, SIGNATURE_BYTES)
    np.testing.assert_allclose(likeness(signatures, signatures).numpy(), gradients @ gradients.T, atol=0.03)


def test_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    signatures = np.repeat(rng.integers(-127, 128, (40, SIGNATURE_BYTES)), 3, axis=0)
    signatures = np.clip(signatures + rng.integers(-25, 26, signatures.shape), -127, 127).astype(np.int8)
    rows = signatures / np.linalg.norm(signatures.astype(float), axis=1, keepdims=True)
    truth = rows @ rows.T
    expected = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows)) if truth[i, j] >= 0.9]
    monkeypatch.setattr(module, "_ROWS", 16)
    monkeypatch.setattr(module, "_COLUMNS", 24)
    found = list(alike_pairs(signatures, 0.9))
    assert [pair[:2] for pair in found] == expected
    assert len(expected) == 120
    np.testing.assert_allclose([pair[2] for pair in found], [truth[pair] for pair in expected], atol=1e-6)


def test_groups_are_chains_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    walk = rng.integers(-100, 101, (30, SIGNATURE_BYTES)) + np.cumsum(rng.integers(-9, 10, (30, SIGNATURE_BYTES)), 0)
    walk[1:20] = walk[0] + np.cumsum(rng.integers(-30, 31, (19, SIGNATURE_BYTES)), 0)  # each like the next
    signatures = np.clip(rng.permutation(np.concatenate([walk, walk[25:]])), -127, 127).astype(np.int8)
    groups = {row: {row} for row in range(len(signatures))}
    for first, second, _ in alike_pairs(signatures):
        merged = groups[first] | groups[second]
        groups.update(dict.fromkeys(merged, merged))
    expected = sorted(sorted(group) for group in {id(group): group for group in groups.values()}.values())
    monkeypatch.setattr(module, "_ROWS", 8)
    monkeypatch.setattr(module, "_COLUMNS", 12)
    compared: list[int] = []
    found = alike_groups(signatures, on_progress=compared.append)
    assert found == [group for group in expected if len(group) > 1] and max(map(len, found)) > 9
    assert sum(compared) == len(signatures) and alike_groups(signatures[:0]) == []
