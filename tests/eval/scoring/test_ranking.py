"""Rankings against a float64 full matrix, and their independence of blocks, order and threads."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from eval import RelevantRanks, rank_relevant
from eval.scoring import ranking
from timm_gam.core import DataError
from timm_gam.search import ExactScorer, FixedPoint, fixed_point


def data(seed: int, count: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (rng.normal(size=(classes, dim))[labels] + rng.normal(size=(count, dim))).astype(np.float32), labels


def joined(blocks: list[RelevantRanks]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.concatenate([block.query[block.row] for block in blocks])
    return rows, np.concatenate([b.above for b in blocks]), np.concatenate([b.tied for b in blocks])


def full_matrix(scores: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(query, above, tied) of every relevant pair from one N x N matrix, self excluded by index."""
    out = []
    for query in range(len(labels)):
        others = np.delete(np.arange(len(labels)), query)
        row = scores[query, others]
        for target in sorted(row[labels[others] == labels[query]], reverse=True):
            out.append((query, int((row > target).sum()), int((row == target).sum())))
    return out


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equals_the_full_float64_matrix(distance: str) -> None:
    vectors, labels = data(0, 300, 40, 12)
    points = fixed_point(vectors, distance)
    exact = vectors.astype(np.float64)
    if distance == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        scores = exact @ exact.T
    else:
        scores = -(((exact[:, None] - exact[None]) ** 2).sum(axis=2))
    blocks = list(rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(300)))
    assert sorted(zip(*joined(blocks), strict=True)) == sorted(full_matrix(scores, labels))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_block_size_gives_the_same_ranks(distance: str) -> None:
    vectors, labels = data(1, 257, 33, 7)
    vectors[100:140] = vectors[0:40]  # duplicates: ties that rounding would break apart
    points = fixed_point(vectors, distance)
    runs = []
    for budget in (1, 8 * 4096 * 33 + 8 * 290 * 3, 2**30):
        blocks = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(257), memory_budget=budget)
        runs.append(joined(list(blocks)))
    for run in runs[1:]:
        for got, expected in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_scores_are_exact_so_duplicates_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(9001, 127)).astype(np.float32)  # spans three gallery blocks, odd row alignment
    places = np.array([3, 4095, 4096, 8191, 9000])
    vectors[places] = vectors[3]
    labels = np.arange(9001)
    labels[places] = 3
    points = fixed_point(vectors)
    (block,) = rank_relevant(ExactScorer(points.take(np.array([3])), points), np.array([3]), labels)
    assert block.tied.tolist() == [5] * 5


def test_order_of_images_does_not_matter() -> None:
    vectors, labels = data(3, 200, 16, 9)
    vectors[50:60] = vectors[0:10]
    order = np.random.default_rng(0).permutation(200)
    points, shuffled = fixed_point(vectors), fixed_point(vectors[order])
    rows, above, tied = joined(list(rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(200))))
    rows2, above2, tied2 = joined(
        list(rank_relevant(ExactScorer(shuffled), labels[order], labels[order], self_index=np.arange(200)))
    )
    assert sorted(zip(rows, above, tied, strict=True)) == sorted(zip(order[rows2], above2, tied2, strict=True))


def test_query_is_left_out_by_identity_and_its_duplicate_is_not() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    labels = np.array([0, 0, 1])
    points = fixed_point(vectors)
    (block,) = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(3))
    assert block.row.tolist() == [0, 1]  # the third query has no other image of its class
    assert block.above.tolist() == [0, 0]
    assert block.tied.tolist() == [1, 1]


def test_separate_gallery_keeps_every_image() -> None:
    vectors, labels = data(4, 50, 8, 4)
    points = fixed_point(vectors)
    (block,) = rank_relevant(
        ExactScorer(points.take(np.arange(10)), points.take(np.arange(10, 50))), labels[:10], labels[10:]
    )
    assert len(block.row) == sum(int((labels[10:] == label).sum()) for label in labels[:10])


@pytest.mark.parametrize(("queries", "gallery"), [(30, 7), (7, 30), (300, 10), (10, 300)])
def test_queries_and_gallery_of_any_sizes(queries: int, gallery: int) -> None:
    vectors, labels = data(9, queries + gallery, 8, 4)
    points = fixed_point(vectors)
    q, g = np.arange(queries), np.arange(queries, queries + gallery)
    integers = points.integers(slice(None)).numpy()
    scores = integers[q] @ integers[g].T
    expected = [
        (i, int((scores[i] > target).sum()), int((scores[i] == target).sum()))
        for i in q.tolist()
        for target in scores[i, labels[g] == labels[i]]
    ]
    for budget in (1, 2**30):
        found = rank_relevant(ExactScorer(points.take(q), points.take(g)), labels[q], labels[g], memory_budget=budget)
        assert sorted(zip(*joined(list(found)), strict=True)) == sorted(expected)


def test_labels_that_the_gallery_lacks() -> None:
    vectors = np.eye(4, dtype=np.float32)
    points = fixed_point(vectors)
    (block,) = rank_relevant(ExactScorer(points), np.array([5, 1, 0, 9]), np.array([1, 1, 6, 6]))
    assert block.row.tolist() == [1, 1], "only the query with label 1 has relevant images"
    (block,) = rank_relevant(ExactScorer(points), np.array([5, 7, 0, 9]), np.array([1, 1, 6, 6]))
    assert block.row.tolist() == []


@pytest.mark.parametrize("sizes", [[1, 2, 400], [100] * 5, [3] * 170], ids=str)
def test_classes_of_any_size_in_groups_of_any_size(sizes: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors, _ = data(8, len(labels), 9, 3)
    points = fixed_point(vectors)
    integers = points.integers(slice(None)).numpy()
    expected = sorted(full_matrix(integers @ integers.T, labels))
    for budget in (1, 2**17, 2**30):
        found = rank_relevant(
            ExactScorer(points), labels, labels, self_index=np.arange(len(labels)), memory_budget=budget
        )
        assert sorted(zip(*joined(list(found)), strict=True)) == expected


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 3e5, 1e18])
def test_scale_of_the_embeddings_does_not_matter(scale: float) -> None:
    vectors, labels = data(6, 120, 16, 6)
    for distance in ("cosine", "euclidean"):
        runs = []
        for factor in (1.0, scale):
            points = fixed_point(vectors.astype(np.float64) * factor, distance)
            blocks = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(120))
            runs.append(joined(list(blocks)))
        np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_memory_stays_within_the_budget() -> None:
    vectors, labels = data(7, 6000, 64, 50)
    points = fixed_point(vectors)
    budget = 16 * 2**20
    tracemalloc.start()
    for _ in rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(6000), memory_budget=budget):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * budget  # an N x N float64 matrix would be 288 MB


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_scores_that_float32_cannot_tell_apart(distance: str) -> None:
    """Neighbours within far less than float32's precision of each other, in both orders, and exact ties among them."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=12)
    vectors = base + 1e-6 * rng.normal(size=(600, 12))
    vectors[300:320] = vectors[:20]
    vectors[320:340] *= -1  # far from all others, and nearly as far from each
    labels = rng.integers(0, 5, 600)
    points = fixed_point(vectors, distance)
    integers = points.integers(slice(None)).numpy()
    scores = integers @ integers.T
    if distance == "euclidean":
        squares = np.diag(scores)
        scores = 2 * scores - squares - squares[:, None]
    assert np.unique(scores.astype(np.float32)).size < np.unique(scores).size
    for budget in (2**20, 2**28):
        found = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(600), memory_budget=budget)
        assert sorted(zip(*joined(list(found)), strict=True)) == sorted(full_matrix(scores, labels))


def test_progress_adds_up_to_the_queries() -> None:
    vectors, labels = data(10, 700, 16, 9)
    points = fixed_point(vectors)
    for queries in (points, points.take(np.arange(333))):
        told: list[int] = []
        mine = labels[: len(queries)]
        list(rank_relevant(ExactScorer(queries, points), mine, labels, memory_budget=2**20, on_progress=told.append))
        assert sum(told) == len(queries)
        assert len(told) > 2


def test_the_largest_scores_there_are() -> None:
    """Equal vectors, and opposite ones of the greatest length, whose squared distance is as large as it gets."""
    vectors = np.concatenate([np.eye(3), -np.eye(3), np.eye(3)])
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    for distance in ("cosine", "euclidean"):
        points = fixed_point(vectors, distance)
        integers = points.integers(slice(None)).numpy()
        scores = integers @ integers.T
        if distance == "euclidean":
            scores = 2 * scores - 2 * np.diag(scores)[0]
        found = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(9))
        assert sorted(zip(*joined(list(found)), strict=True)) == sorted(full_matrix(scores, labels))


def test_vectors_are_prepared_once_where_those_of_the_queries_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    integers = FixedPoint.integers

    def counting(points: FixedPoint, rows: slice | np.ndarray, *args: Any, **kwargs: Any) -> torch.Tensor:
        if isinstance(rows, slice):  # targets are read by index
            read.append((len(points), rows.start))
        return integers(points, rows, *args, **kwargs)

    monkeypatch.setattr(FixedPoint, "integers", counting)
    vectors, labels = data(11, 4000, 16, 40)
    points = fixed_point(vectors)
    query, gallery = np.arange(600), np.arange(600, 4000)
    budget = 8 * 2**20
    blocks = rank_relevant(
        ExactScorer(points.take(query), points.take(gallery)), labels[query], labels[gallery], memory_budget=budget
    )
    list(blocks)
    assert len(read) == len(set(read)) > 3
    assert len({start for count, start in read if count == 600}) > 1, "several blocks of queries"


def test_a_query_that_is_another_image_than_its_own_row_is_refused() -> None:
    ranks = rank_relevant(
        ExactScorer(fixed_point(np.eye(3))), np.array([0, 1, 1]), np.array([0, 1, 2]), self_index=np.array([0, 2, 1])
    )
    with pytest.raises(DataError, match="query 1 has another label than gallery row 2"):
        list(ranks)


def test_counters_of_fifty_thousand_images_with_five_hundred_of_a_class_fit_at_once() -> None:
    """In two groups, half of the scores would be computed twice."""
    most = 2 * ranking.DEFAULT_MEMORY_BUDGET // 3 // ranking.SortCounter.bytes_per_pair
    assert ranking._query_groups(np.full(50_000, 500), most) == [slice(0, 50_000)]
    assert ranking._query_groups(np.array([3, 1, 9, 1]), 6) == [slice(0, 2), slice(2, 3), slice(3, 4)]


def test_an_empty_gallery_has_no_pairs() -> None:
    scorer = ExactScorer(fixed_point(np.eye(3, 4)), fixed_point(np.zeros((0, 4))))
    (ranks,) = rank_relevant(scorer, np.arange(3), np.zeros(0, dtype=np.int64))
    assert not len(ranks.row)
