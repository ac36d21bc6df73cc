"""Exact nearest neighbours against the full matrix."""

from __future__ import annotations

import numpy as np
import pytest

from timm_gam.search import fixed_point, nearest, on_one_scale
from timm_gam.search.exact import _bound, _first_pass


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


@pytest.mark.parametrize(("power", "raw"), [(0, True), (13, True), (20, False)])
def test_embeddings_that_are_not_rounded_at_first_give_the_same_ranking(power: int, raw: bool) -> None:
    rng = np.random.default_rng(power)
    direction = rng.normal(size=(1, 512))
    gallery = np.concatenate([direction * (1 + step * rng.normal(size=(300, 512))) for step in (3e-7, 1e-5, 1e-3, 1.0)])
    gallery = (gallery * 10.0 ** rng.uniform(-power, power, (len(gallery), 1))).astype(np.float32)
    gallery[5] = 0.0
    gallery[6, 1:] = 0.0
    some = rng.permutation(len(gallery))[:1000]  # as a filter selects photographs
    points = fixed_point(gallery).take(some)
    queries = fixed_point((direction * (1 + 1e-6 * rng.normal(size=(8, 512)))).astype(np.float32))
    assert points.raw == raw
    integers = [each.integers(slice(None)).numpy().astype(np.int64) for each in (queries, points)]
    exact = integers[0] @ integers[1].T
    found = nearest(queries, points, 20)
    np.testing.assert_array_equal(found.rows, np.argsort(-exact, axis=1, kind="stable")[:, :20])
    np.testing.assert_array_equal(found.scores, -np.sort(-exact, axis=1)[:, :20])


def test_the_first_pass_is_as_near_to_the_exact_scores_as_its_bound_says() -> None:
    rng = np.random.default_rng(0)
    gallery = (rng.normal(size=(500, 2048)) ** 3 * 10.0 ** rng.uniform(-10, 10, (500, 1))).astype(np.float32)
    queries, points = fixed_point(gallery[::-1][:50].copy()), fixed_point(gallery)
    exact = queries.integers(slice(None)).numpy() @ points.integers(slice(None)).numpy().T
    values, rows = _first_pass(queries, points, 500, lambda products: None)
    error = np.abs(values - np.take_along_axis(exact, rows, 1) * 2.0**-50).max()
    assert points.raw
    assert error < _bound(2048)
