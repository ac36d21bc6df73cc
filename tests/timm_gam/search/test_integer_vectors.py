"""Integer embeddings: on the grid, close, within their bounds, and nothing but finite matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from timm_gam.core import DataError, EmbeddingError
from timm_gam.search import Distance, fixed_point


def vectors(count: int = 100, dim: int = 64) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, dim)).astype(np.float32)


def test_integers_are_the_embeddings_rounded_to_the_scale_of_float32() -> None:
    points = fixed_point(vectors())
    integers = points.integers(slice(None)).numpy()
    np.testing.assert_array_equal(integers, np.rint(integers))
    unit = vectors().astype(np.float64) / np.linalg.norm(vectors().astype(np.float64), axis=1, keepdims=True)
    scale = np.median(integers / unit)
    assert np.log2(scale) == pytest.approx(np.round(np.log2(scale)), abs=1e-6), "one power of two for all"
    assert np.abs(integers / 2 ** np.round(np.log2(scale)) - unit).max() <= 2.0**-26
    assert not fixed_point(np.zeros((2, 3), dtype=np.float32)).integers(slice(None)).numpy().any()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("dim", [1, 2, 2048])
def test_integers_are_small_enough_for_exact_sums(distance: Distance, dim: int) -> None:
    for values in (vectors(50, dim), np.ones((3, dim)), np.eye(max(dim, 2))[:, :dim] * -7.3):
        integers = fixed_point(values, distance).integers(slice(None)).numpy()
        assert 4 * (integers**2).sum(axis=1).max() < 2**53


def test_a_selection_of_a_selection_reads_the_same_rows() -> None:
    points = fixed_point(vectors())
    chosen = points.take(np.array([7, 3, 50])).take(np.array([2, 0]))
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.integers(slice(None)).numpy(), points.integers(np.array([50, 7])).numpy())
    assert points.take(np.arange(100)) is points


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_memory_map_is_read_in_place(tmp_path: Path, dtype: type) -> None:
    values = vectors().astype(dtype)
    np.save(tmp_path / "vectors.npy", values)
    mapped = fixed_point(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    assert isinstance(mapped.embeddings, np.memmap)
    np.testing.assert_array_equal(
        mapped.integers(slice(None)).numpy(), fixed_point(values).integers(slice(None)).numpy()
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    values = np.ones((5000, 4), dtype=np.float32)
    values[4500, 2] = bad
    with pytest.raises(EmbeddingError, match="4500"):
        fixed_point(values)


@pytest.mark.parametrize("shape", [(5,), (5, 0), (2, 3, 4)])
def test_only_matrices_are_embeddings(shape: tuple[int, ...]) -> None:
    with pytest.raises(EmbeddingError, match="matrix"):
        fixed_point(np.ones(shape, dtype=np.float32))


def test_lengths_are_the_same_bits_in_any_layout_and_from_a_tensor() -> None:
    values = vectors(700, 37)
    factor = fixed_point(values).factor
    assert torch.equal(fixed_point(torch.from_numpy(values)).factor, factor)
    assert torch.equal(fixed_point(np.asfortranarray(values)).factor, factor)
    assert torch.equal(fixed_point(values[::-1]).factor.flip(0), factor)
    np.testing.assert_allclose(2.0**25 / factor.numpy(), np.linalg.norm(values.astype(np.float64), axis=1), rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1e160, 1e300])
def test_lengths_whose_squares_are_no_float64(scale: float) -> None:
    values = vectors(20, 9).astype(np.float64)
    np.testing.assert_allclose(
        fixed_point(values * scale).integers(slice(None)), fixed_point(values).integers(slice(None)), atol=1
    )


def test_kinds_of_numbers() -> None:
    whole = np.random.default_rng(0).integers(-9, 9, (30, 5))
    expected = fixed_point(whole.astype(np.float64)).integers(slice(None))
    for kind in (np.int64, np.int8, np.float16, ">f4"):
        assert torch.equal(fixed_point(whole.astype(kind)).integers(slice(None)), expected)
    for dtype in (torch.bfloat16, torch.float32, torch.int32):
        tensor = torch.from_numpy(whole).to(dtype)
        assert torch.equal(fixed_point(tensor).integers(slice(None)), expected)
    assert torch.equal(fixed_point(torch.from_numpy(whole).double().requires_grad_()).integers(slice(None)), expected)
    for bad in (whole + 1j, whole.astype(str), torch.zeros(3, 2, dtype=torch.complex64)):
        with pytest.raises(EmbeddingError, match="real numbers"):
            fixed_point(bad)


def test_what_would_be_rounded_away_is_refused() -> None:
    values = vectors(40, 8).astype(np.float64)
    with pytest.raises(EmbeddingError, match="image 0 has a length below 1e-300; multiply all of them"):
        fixed_point(values * 1e-310)
    values[7] *= 1e5
    with pytest.raises(EmbeddingError, match=r"image 7 is [0-9.]+e\+05 times as long as the shortest tenth; .*: 8192"):
        fixed_point(values, "euclidean")
    fixed_point(values)
    masked = np.ma.masked_array(values, np.zeros_like(values, dtype=bool))
    fixed_point(masked)
    masked[3, 3] = np.ma.masked
    with pytest.raises(EmbeddingError, match="masked"):
        fixed_point(masked)
    with pytest.raises(DataError, match="legal: cosine, euclidean"):
        fixed_point(values, "dot")  # type: ignore[arg-type]
