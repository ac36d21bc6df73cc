"""Every kernel against Python's integers: no rounding anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import rank_relevant
from timm_gam.search import (
    Digits,
    Kernel,
    NumpyFloat64,
    TorchFloat64,
    exact_products,
    fastest_kernel,
    fixed_point,
    kernels,
    single_threaded_workers,
)

KERNELS = [NumpyFloat64(), TorchFloat64(), Digits(4)]


def python_products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    whole = np.vectorize(int, otypes=[object])
    products: np.ndarray = whole(left) @ whole(right).T
    return products


def int8_products_are_exact() -> bool:
    return any(isinstance(kernel, Digits) for kernel in kernels(np.full(16, 100.0)))


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
    reach = Digits.reach(count)
    if not int8_products_are_exact():
        pytest.skip("torch does not multiply int8 here")
    small = np.full(Digits.shortest, float(reach))
    assert Digits(count) in kernels(small)
    assert not any(isinstance(kernel, Digits) and kernel.count <= count for kernel in kernels(small + 1))
    values = np.array([0, 1, -1, 127, 128, -128, -129, reach, reach - 1, -reach, 255, -256], dtype=np.float64)
    values = values[np.abs(values) <= reach][:, None] * np.eye(1, Digits.shortest)
    expected = python_products(values, values)  # of single components: as large as integers of this size get
    got = Digits(count).products(values, values)
    np.testing.assert_array_equal(got, expected.astype(np.float64))


def test_int8_sums_fit_at_the_greatest_length() -> None:
    for count in (1, 2, 3, 4):
        assert count * Digits(count).longest * 128 * 128 < 2**31 <= count * (Digits(count).longest + 1) * 128 * 128
        assert Digits(count) not in kernels(np.full(Digits(count).longest + 1, 127 * 256.0 ** (count - 1)))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("large", [(0,), (31,), (3, 4, 17)], ids=str)
def test_a_few_large_components_take_no_digits(count: int, large: tuple[int, ...]) -> None:
    if not int8_products_are_exact():
        pytest.skip("torch does not multiply int8 here")
    rng = np.random.default_rng(count)
    reach = Digits.reach(count)
    integers = rng.integers(-reach, reach + 1, size=(150, 70)).astype(np.float64)
    integers[:, large] = rng.integers(-(2**24), 2**24, size=(150, len(large)))
    integers[:8, large[0]] = [reach, reach + 1, -reach - 1, -reach, 2**24, -(2**24), 0, reach + 256**count]
    kernel = next(each for each in kernels(np.abs(integers).max(axis=0)) if isinstance(each, Digits))
    assert kernel == Digits(count, large) if len(large) * 16 <= 70 else kernel == Digits(4)
    expected = python_products(integers, integers).astype(np.float64)
    np.testing.assert_array_equal(Digits(count, large).products(integers[:50], integers[50:]), expected[:50, 50:])
    with single_threaded_workers() as pool:
        np.testing.assert_array_equal(Digits(count, large).products(integers, integers, pool.map), expected)


def test_rows_of_an_operand_share_no_stride_with_a_cache() -> None:
    for kernel, dim in ((Digits(3), 2048), (Digits(2, (1, 2)), 100), (Digits(4), 16)):
        operand = kernel.operand(3, dim)
        assert operand.strides[0] == kernel.bytes_per_vector(dim)
        assert operand.strides[0] % 64 == 0 and operand.strides[0] // 64 % 2 == 1
        assert operand.shape[1] <= operand.strides[0]


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
            assert kernels(np.full(16, 100.0)) == [NumpyFloat64(), TorchFloat64()]
    finally:
        monkeypatch.undo()
        exact_products._int8_products_are_exact.cache_clear()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_kernel_gives_the_same_ranks(distance: str) -> None:
    rng = np.random.default_rng(3)
    vectors, labels = rng.normal(size=(400, 512)).astype(np.float32), rng.integers(0, 9, 400)
    vectors[50:90] = vectors[:40]
    vectors[::20, 7] += 9.0  # a component that takes a digit more than the others
    points = fixed_point(vectors, distance)
    runs = []
    for kernel in kernels(points.largest):
        blocks = rank_relevant(points, points, labels, labels, self_index=np.arange(400), kernel=kernel)
        runs.append([(block.row.tolist(), block.above.tolist(), block.tied.tolist()) for block in blocks])
    assert all(run == runs[0] for run in runs)
    if int8_products_are_exact():
        assert [kernel.large for kernel in kernels(points.largest) if isinstance(kernel, Digits)] == [(7,), ()]


def test_one_kernel_is_chosen_once() -> None:
    largest = np.full(64, 2.0**20)
    largest[5] = 2.0**24
    assert fastest_kernel(largest) in kernels(largest)
    assert fastest_kernel(largest) == fastest_kernel(largest)
