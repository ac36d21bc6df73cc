"""Both libraries against Python's integers: no rounding anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from eval.exact_products import LIBRARIES, fastest_multiply
from eval.integer_vectors import fixed_point


def python_integers(values: np.ndarray) -> np.ndarray:
    return np.vectorize(int, otypes=[object])(values)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (33, 65, 127), (64, 10, 2048)], ids=str)
def test_products_are_those_of_integers(library: str, shape: tuple[int, int, int]) -> None:
    rows, columns, dim = shape
    integers = fixed_point(np.random.default_rng(0).normal(size=(rows + columns, dim))).integers(slice(None))
    got = LIBRARIES[library](integers[:rows], integers[rows:])
    expected = python_integers(integers[:rows]) @ python_integers(integers[rows:]).T
    np.testing.assert_array_equal(python_integers(got), expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_longest_vectors_do_not_overflow(library: str) -> None:
    for values in (np.ones((4, 2048)), np.eye(4), np.full((4, 4096), -1.0)):
        integers = fixed_point(np.concatenate([values, -values])).integers(slice(None))
        expected = python_integers(integers) @ python_integers(integers).T
        np.testing.assert_array_equal(python_integers(LIBRARIES[library](integers, integers)), expected)


def test_one_library_is_chosen_once() -> None:
    assert fastest_multiply() in LIBRARIES.values()
    assert fastest_multiply() is fastest_multiply()
