"""Exact nearest neighbours against the full matrix."""

from __future__ import annotations

import numpy as np
import pytest

from timm_gam.search import (
    fixed_point,
    nearest,
    on_one_scale,
)


def clustered(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, dim))
    return (centres[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, dim))).astype(np.float32)


def brute_force(queries: np.ndarray, gallery: np.ndarray, distance: str) -> np.ndarray:
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if distance == "cosine":
        return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return -((a[:, None] - b) ** 2).sum(axis=2)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("count", [40, 5_000, 33_000])
def test_nearest_is_brute_force(distance: str, count: int) -> None:
    gallery, queries = clustered(count), 3 * clustered(30, seed=1)
    points = on_one_scale(fixed_point(queries, distance), fixed_point(gallery, distance))
    expected = np.argsort(-brute_force(queries, gallery, distance), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(nearest(*points, 10).rows, expected)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_many_equal_images_are_scored_without_rounding_and_ordered_by_row(distance: str) -> None:
    gallery = clustered(3_000)
    gallery[500:2_500] = gallery[7]  # far more than the candidates of the first pass
    queries = gallery[[7, 100]]
    points = on_one_scale(fixed_point(queries, distance), fixed_point(gallery, distance))
    found = nearest(*points, 10)
    assert found.rows[0].tolist() == [7, *range(500, 509)]
    expected = np.argsort(-brute_force(queries, gallery, distance)[1], kind="stable")[:10]
    assert found.rows[1].tolist() == expected.tolist()
    assert nearest(*points, 10, self_index=np.array([7, 100])).rows[0].tolist() == list(range(500, 510))


def test_near_ties_below_float32_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(1, 256)), 400, axis=0) * (1 + 3e-7 * rng.normal(size=(400, 256)))
    points = fixed_point(gallery)
    integers = points.integers(slice(None)).numpy().astype(np.int64)
    exact = integers[:5] @ integers.T
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(nearest(points.take(np.arange(5)), points, 10).rows, expected)
