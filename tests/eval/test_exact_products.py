"""Every kernel against Python's integers: no rounding anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import exact_products
from eval.blocks import single_threaded_workers
from eval.exact_products import Digits, Kernel, NumpyFloat64, TorchFloat64, fastest_kernel, kernels
from eval.integer_vectors import fixed_point
from eval.ranking import rank_relevant

KERNELS = [NumpyFloat64(), TorchFloat64(), Digits(4)]


def python_products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    whole = np.vectorize(int, otypes=[object])
    products: np.ndarray = whole(left) @ whole(right).T
    return products


def int8_products_are_exact() -> bool:
    return any(isinstance(kernel, Digits) for kernel in kernels(16, 100))


@pytest.fixture(params=KERNELS, ids=lambda kernel: type(kernel).__name__)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    if isinstance(request.param, Digits) and not int8_products_are_exact():
        pytest.skip("torch does not multiply int8 here")
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (33, 65, 127), (64, 10, 2048), (300, 40, 64)], ids=str)
def test_products_are_those_of_integers(kernel: Kernel, shape: tuple[int, int, int]) -> None:
    rows, columns, dim = shape
    if isinstance(kernel, Digits):
        dim = max(dim, kernel.shortest)
    integers = fixed_point(np.random.default_rng(0).normal(size=(rows + columns, dim))).integers(slice(None))
    got = kernel.products(integers[:rows], integers[rows:])
    np.testing.assert_array_equal(got, python_products(integers[:rows], integers[rows:]).astype(np.float64))


def test_products_of_a_set_with_itself(kernel: Kernel) -> None:
    integers = fixed_point(np.random.default_rng(1).normal(size=(700, 33))).integers(slice(None))
    expected = python_products(integers, integers).astype(np.float64)
    np.testing.assert_array_equal(kernel.products(integers, integers), expected)
    with single_threaded_workers() as pool:
        np.testing.assert_array_equal(kernel.products(integers, integers, pool.map), expected)


def test_the_longest_vectors_do_not_overflow(kernel: Kernel) -> None:
    for values in (np.ones((4, 2048)), np.eye(4, 16), np.full((4, 4096), -1.0)):
        integers = fixed_point(np.concatenate([values, -values])).integers(slice(None))
        expected = python_products(integers, integers).astype(np.float64)
        np.testing.assert_array_equal(kernel.products(integers, integers), expected)


def test_products_may_go_to_a_part_of_a_larger_matrix(kernel: Kernel) -> None:
    integers = fixed_point(np.random.default_rng(2).normal(size=(50, 24))).integers(slice(None))
    operand = kernel.operand(50, 24)
    kernel.fill(operand[:20], integers[:20])
    kernel.fill(operand[20:], integers[20:])
    room = np.full((60, 72), 7.0)
    kernel.multiply(operand[:30], operand[10:], room[:30, 8:48], map)
    np.testing.assert_array_equal(room[:30, 8:48], integers[:30] @ integers[10:].T)
    room[:30, 8:48] = 7.0
    assert (room == 7.0).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_digits_hold_all_that_they_should(count: int) -> None:
    reach = sum(127 * 256**i for i in range(count))
    assert Digits.needed(reach) == count
    assert Digits.needed(reach + 1) == count + 1
    if not int8_products_are_exact():
        pytest.skip("torch does not multiply int8 here")
    values = np.array([0, 1, -1, 127, 128, -128, -129, reach, reach - 1, -reach, 255, -256], dtype=np.float64)
    values = values[np.abs(values) <= reach][:, None] * np.eye(1, Digits.shortest)
    expected = python_products(values, values)  # of single components: as large as integers of this size get
    got = Digits(count).products(values, values)
    np.testing.assert_array_equal(got, expected.astype(np.float64))


def test_int8_sums_fit_at_the_greatest_length() -> None:
    for count in (1, 2, 3, 4):
        assert count * Digits(count).longest * 128 * 128 < 2**31 <= count * (Digits(count).longest + 1) * 128 * 128
        assert Digits(count) not in kernels(Digits(count).longest + 1, 127 * 256.0 ** (count - 1))


def test_a_machine_that_saturates_int8_products_does_not_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # as pairs of products do in int16
        pairs = a.int()[:, :516].view(len(a), -1, 2)[:, :, :, None] * b.int()[:516].view(1, -1, 2, b.shape[1])
        return pairs.sum(dim=2).clamp(-(2**15), 2**15 - 1).sum(dim=1).int() + a.int()[:, 516:] * b.int()[516:]

    try:
        for broken in (saturating, None):
            exact_products._int8_products_are_exact.cache_clear()
            if broken is None:
                monkeypatch.delattr(torch, "_int_mm")
            else:
                monkeypatch.setattr(torch, "_int_mm", broken)
            assert kernels(16, 100) == [NumpyFloat64(), TorchFloat64()]
    finally:
        monkeypatch.undo()
        exact_products._int8_products_are_exact.cache_clear()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_kernel_gives_the_same_ranks(distance: str) -> None:
    rng = np.random.default_rng(3)
    vectors, labels = rng.normal(size=(400, 30)).astype(np.float32), rng.integers(0, 9, 400)
    vectors[50:90] = vectors[:40]
    points = fixed_point(vectors, distance)
    runs = []
    for kernel in kernels(points.dim, points.largest):
        blocks = rank_relevant(points, points, labels, labels, self_index=np.arange(400), kernel=kernel)
        runs.append([(block.row.tolist(), block.above.tolist(), block.tied.tolist()) for block in blocks])
    assert all(run == runs[0] for run in runs)


def test_one_kernel_is_chosen_once() -> None:
    assert fastest_kernel(64, 2.0**20) in kernels(64, 2.0**20)
    assert fastest_kernel(64, 2.0**20) == fastest_kernel(64, 2.0**20)
