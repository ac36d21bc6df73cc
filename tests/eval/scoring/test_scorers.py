"""Rankings by scorers other than the inner product of vectors, counted in either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import RelevantRanks, rank_relevant
from eval.scoring import ranking
from timm_gam.search import ExactScorer, Rows, Scorer, fixed_point, highest


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


class GivenScores(Scorer):
    """Any matrix of float64 scores."""

    def __init__(self, scores: np.ndarray, *, symmetric: bool = False) -> None:
        super().__init__(*scores.shape, symmetric=symmetric)
        self.scores = torch.from_numpy(scores)

    def block(self, rows: Rows, columns: Rows) -> torch.Tensor:
        return self.scores[rows][:, columns].clone()


COUNTERS = [ranking.SortCounter, ranking.SearchCounter]


@pytest.fixture(params=COUNTERS, ids=lambda counter: counter.__name__)
def counter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of counting, on the CPU."""
    monkeypatch.setattr(ranking, "SortCounter", request.param)


@pytest.mark.usefixtures("counter")
@pytest.mark.parametrize("levels", [1, 2, 3, 40, 10_000])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scores_of_any_scorer_and_any_ties(levels: int, symmetric: bool) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (90, 90)) / 7 - 1
    scores[rng.random((90, 90)) < 0.05] = 0.0
    scores[rng.random((90, 90)) < 0.05] = -0.0
    scores += 1e-12 * rng.integers(0, 2, (90, 90))  # that float32 cannot tell apart
    if symmetric:
        scores = np.triu(scores) + np.triu(scores, 1).T
    labels = rng.integers(0, 6, 90)
    expected = sorted(full_matrix(scores, labels))
    for budget in (1, 2**30):
        scorer = GivenScores(scores, symmetric=symmetric)
        found = rank_relevant(scorer, labels, labels, self_index=np.arange(90), memory_budget=budget)
        assert sorted(zip(*joined(list(found)), strict=True)) == expected


@pytest.mark.usefixtures("counter")
def test_minus_zero_ties_with_zero() -> None:
    """One component, and a dead query: products are 0.0 and -0.0."""
    for vectors in (
        np.array([[1.0], [0.0], [-1.0], [0.0], [2.0]]),
        np.array([[0.0, 0.0], [1, -1], [-1, 1], [0, 0], [1, 1]]),
    ):
        points = fixed_point(vectors)
        labels = np.array([0, 0, 1, 1, 0])
        (block,) = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(5))
        dead = [row for row in range(5) if not vectors[row].any()]
        for query in dead:
            assert set(block.tied[block.row == query].tolist()) == {4}, "all others score 0"


@pytest.mark.usefixtures("counter")
def test_either_counter_within_exact_scores() -> None:
    vectors, labels = data(1, 257, 33, 7)
    vectors[100:140] = vectors[0:40]
    points = fixed_point(vectors)
    integers = points.integers(slice(None)).numpy()
    expected = sorted(full_matrix(integers @ integers.T, labels))
    for budget in (2**16, 2**30):
        found = rank_relevant(ExactScorer(points), labels, labels, self_index=np.arange(257), memory_budget=budget)
        assert sorted(zip(*joined(list(found)), strict=True)) == expected


def test_the_highest_of_any_scorer_are_in_order_and_ties_by_row() -> None:
    scores = np.random.default_rng(0).integers(0, 9, (30, 5000)).astype(np.float64)
    own = np.random.default_rng(1).integers(0, 5000, 30)
    found = highest(GivenScores(scores.copy()), 12, self_index=own)
    scores[np.arange(30), own] = -np.inf
    expected = np.lexsort((np.broadcast_to(np.arange(5000), scores.shape), -scores), axis=1)[:, :12]
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, expected, axis=1))


def test_scores_beside_the_range_of_float32() -> None:
    """Denormal ones of either sign, and the largest that float32 holds."""
    values = np.array([0.0, -0.0, 1e-45, -1e-45, 3e-45, -3e-45, 1e-300, -1e-300, 3.4e38, -3.4e38, 3.3e38])
    scores = np.random.default_rng(0).choice(values, (60, 60))
    labels = np.random.default_rng(1).integers(0, 4, 60)
    found = rank_relevant(GivenScores(scores), labels, labels, self_index=np.arange(60))
    assert sorted(zip(*joined(list(found)), strict=True)) == sorted(full_matrix(scores, labels))
