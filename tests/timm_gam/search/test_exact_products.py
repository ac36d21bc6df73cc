"""Every kernel against Python's integers: no rounding anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from timm_gam.search import ExactScorer, Float64, Kernel, Residues, exact_products, fastest_kernel, fixed_point
from timm_gam.search.blocks import _openblas, one_blas_thread

CPU = torch.device("cpu")


def python_products(left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    whole = np.vectorize(int, otypes=[object])
    products: np.ndarray = whole(left.numpy()) @ whole(right.numpy()).T
    return products.astype(np.float64)


def products(kernel: Kernel, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    out = torch.full((len(left), len(right)), np.nan, dtype=torch.float64)
    first = kernel.operand(left.clone())
    kernel.multiply(first, first if left is right else kernel.operand(right.clone()), out)
    return out


KERNELS: list[Kernel] = [Float64(), Residues()]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (33, 65, 127), (64, 10, 2048), (300, 40, 64)], ids=str)
def test_products_are_those_of_integers(shape: tuple[int, int, int]) -> None:
    rows, columns, dim = shape
    points = fixed_point(np.random.default_rng(0).normal(size=(rows + columns, dim)))
    integers = points.integers(slice(None))
    expected = python_products(integers[:rows], integers[rows:])
    for kernel in KERNELS:
        np.testing.assert_array_equal(products(kernel, integers[:rows], integers[rows:]), expected, kernel.name)


def test_products_of_a_set_with_itself() -> None:
    points = fixed_point(np.random.default_rng(1).normal(size=(600, 16)))
    integers = points.integers(slice(None))
    expected = python_products(integers, integers)
    for kernel in KERNELS:
        np.testing.assert_array_equal(products(kernel, integers, integers), expected)


@pytest.mark.parametrize("dim", [1, 16, 100, 2048, 4096])
@pytest.mark.parametrize("largest", [1.0, 126.0, 127.0, 2.0**15, 2.0**20, 2.0**25 + 1])
def test_residues_at_the_ends_of_their_range(dim: int, largest: float) -> None:
    """Every sum as large as it gets: all components at the largest, at minus it, and in random signs."""
    largest = min(largest, float(int((2**53 / dim) ** 0.5)))  # products stay below 2^53, as those of all vectors do
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(3, dim))
    integers = torch.from_numpy(np.concatenate([np.ones((2, dim)) * [[1], [-1]], signs]) * largest)
    expected = python_products(integers, integers)
    assert abs(expected).max() <= 2**53
    np.testing.assert_array_equal(products(Residues(), integers, integers), expected)


def test_residues_are_small_and_those_of_the_integers() -> None:
    moduli = exact_products._MODULI
    assert math.lcm(*moduli) == math.prod(moduli) > 2**55, "no two have a common divisor"
    halves = [
        sign * (modulus * k + shift) / 2
        for modulus in moduli
        for k in (1, 3, 99999)
        for shift in (-1, 0, 1)
        for sign in (-1, 1)
    ]  # as far from a multiple as it gets
    integers = torch.tensor([halves, [2.0**25 - i for i in range(len(halves))]]).double().round()
    residues = Residues().operand(integers)[:, :2, : len(halves)]
    assert int(residues.abs().max()) <= 127
    for plane, modulus in zip(residues, moduli, strict=True):
        assert not ((integers.long() - plane.long()) % modulus).any()


def test_a_machine_that_saturates_int8_products_does_not_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # as pairs of unsigned products do in int16
        pairs = (a.int() + 128).view(len(a), -1, 2)[:, :, :, None] * b.int().reshape(1, -1, 2, b.shape[1])
        return pairs.sum(dim=2).clamp(-(2**15), 2**15 - 1).sum(dim=1).int() - 128 * b.int().sum(dim=0)

    monkeypatch.setattr(exact_products, "_TIMED", 64)
    try:
        for broken in (saturating, None):
            exact_products.seconds.cache_clear()
            if broken is None:
                monkeypatch.delattr(torch, "_int_mm")
            else:
                monkeypatch.setattr(torch, "_int_mm", broken)
            assert exact_products.seconds(Residues(), 64, CPU) == np.inf
    finally:
        monkeypatch.undo()
        exact_products.seconds.cache_clear()


def test_the_fastest_is_chosen_where_there_is_much_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("meta")  # stands for a device whose times are known
    monkeypatch.setattr(exact_products, "seconds", lambda kernel, *_: 1.0 if "int8" in kernel.name else 2.0)
    assert fastest_kernel(64, device) == Residues()
    assert fastest_kernel(64, device, products=1000) == Float64() == fastest_kernel(64, CPU)
    assert fastest_kernel(Residues.longest + 1, device) == Float64(), "int32 does not hold the sums of longer vectors"
    monkeypatch.undo()
    for kernel in KERNELS:
        assert 0 < exact_products.seconds(kernel, 64, CPU) < np.inf


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_kernel_gives_the_same_scores_for_any_rows(distance) -> None:
    rng = np.random.default_rng(3)
    points = fixed_point(rng.normal(size=(90, 70)).astype(np.float32), distance)
    integers = points.integers(slice(None))
    expected = python_products(integers, integers)
    if distance == "euclidean":
        expected = 2 * expected - np.diag(expected) - np.diag(expected)[:, None]
    rows, columns = rng.permutation(90)[:20], rng.permutation(90)[:33]
    for kernel in KERNELS:
        scorer = ExactScorer(points, kernel=kernel)
        scorer.keep(2**20)
        for _ in range(2):  # prepared, and kept
            np.testing.assert_array_equal(scorer.block(slice(5, 40), slice(0, 90)), expected[5:40])
        np.testing.assert_array_equal(scorer.block(slice(0, 90), slice(0, 90)), expected)
        np.testing.assert_array_equal(scorer.block(rows, columns), expected[np.ix_(rows, columns)])
        np.testing.assert_array_equal(scorer.block(rows, rows), expected[np.ix_(rows, rows)])


def test_threads_within_at_once_leave_the_matrix_library_as_it_was() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in _openblas().info()]

    with _openblas().limit(limits=2):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) <= {1}, "the second is still within"
        second.__exit__(None, None, None)
        assert set(threads()) <= {2}
