"""Blockwise re-rankings against full float64 matrices; the strict form against galleries that lack the query's row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.timm_gam.rerank import naive
from timm_gam.core import DataError, EmbeddingError
from timm_gam.rerank import (
    DatabaseAugmentation,
    Diffusion,
    KReciprocal,
    QueryExpansion,
    Reranker,
    fit_whitening,
    load_whitening,
)

IMAGES, DIM = 300, 16
Build = Callable[..., Reranker]

DBA: dict[str, Any] = {"neighbours": 6, "alpha": 2.0}
WALK: dict[str, Any] = {"neighbours": 6, "gamma": 3.0, "alpha": 0.9, "steps": 8, "mix": 0.1}
QE: dict[str, Any] = {"neighbours": 6, "alpha": 2.0}
METHODS = [
    pytest.param(QueryExpansion, naive.query_expansion, QE, id="query expansion"),
    pytest.param(DatabaseAugmentation, naive.database_augmentation, DBA, id="database augmentation"),
    pytest.param(Diffusion, naive.diffusion, WALK, id="diffusion"),
]


@pytest.fixture(scope="module")
def many() -> Tensor:
    """Two thousand of length 1."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(50, DIM))
    return torch.from_numpy(naive.unit(centres[np.arange(2000) % 50] + rng.normal(size=(2000, DIM))))


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, DIM))
    return torch.from_numpy(naive.unit(centres[rng.integers(0, 12, IMAGES)] + 0.9 * rng.normal(size=(IMAGES, DIM))))


def _all(reranker: Reranker, rows_at_once: int = 37) -> Tensor:
    blocks = range(0, len(reranker.queries), rows_at_once)
    return torch.cat([reranker.block(slice(i, min(i + rows_at_once, len(reranker.queries)))) for i in blocks])


@pytest.mark.parametrize(("build", "reference", "options"), METHODS)
def test_strict_is_a_gallery_without_the_own_row(build: Build, reference: Any, options: Any, vectors: Tensor) -> None:
    queries = torch.arange(0, IMAGES, 5)
    scores = _all(build(vectors[queries], vectors, own=queries, **options))
    for place, row in enumerate(queries.tolist()):
        rest = np.delete(np.arange(IMAGES), row)
        expected = reference(vectors[row].numpy(), vectors[rest].numpy(), *options.values())
        np.testing.assert_allclose(scores[place, rest], expected, atol=1e-12)


@pytest.mark.parametrize(("build", "reference", "options"), METHODS)
def test_queries_of_another_set(build: Build, reference: Any, options: Any, vectors: Tensor) -> None:
    scores = _all(build(vectors[:40], vectors[40:], **options))
    for place in range(40):
        expected = reference(vectors[place].numpy(), vectors[40:].numpy(), *options.values())
        np.testing.assert_allclose(scores[place], expected, atol=1e-12)


@pytest.mark.parametrize(("build", "reference", "options"), METHODS)
def test_planting_the_own_row_moves_nothing(build: Build, reference: Any, options: Any, vectors: Tensor) -> None:
    queries, own = vectors[:20], torch.arange(20)
    before = _all(build(queries, vectors, own=own, **options))
    rng = torch.Generator().manual_seed(1)
    plants = [torch.randn(20, DIM, generator=rng, dtype=vectors.dtype), -vectors[:20], vectors[100:120]]
    for plant in plants:
        for row in range(20):  # each query's own row alone: that of another is an image like any other
            gallery = vectors.clone()
            gallery[row] = plant[row]
            after = build(queries[row : row + 1], gallery, own=own[row : row + 1], **options).block(slice(0, 1))[0]
            rest = np.delete(np.arange(IMAGES), row)
            np.testing.assert_allclose(after[rest], before[row, rest], atol=1e-12)
    if build is QueryExpansion:  # its two forms are one
        return
    # The other form is moved by it: the test can fail.
    moved = build(queries, vectors, own=own, transductive=True, **options)
    assert float((_all(moved) - before).abs().max()) > 1e-3


@pytest.mark.parametrize(("build", "reference", "options"), METHODS)
def test_two_thousand_images(build: Build, reference: Any, options: Any, many: Tensor) -> None:
    own = torch.tensor([0, 1234])
    scores = _all(build(many[own], many, own=own, memory=2**20, **options))
    for place, row in enumerate(own.tolist()):
        rest = np.delete(np.arange(2000), row)
        expected = reference(many[row].numpy(), many[rest].numpy(), *options.values())
        np.testing.assert_allclose(scores[place, rest], expected, atol=1e-12)


def test_transductive_forms(vectors: Tensor) -> None:
    own = torch.arange(IMAGES)
    augmented = np.stack(
        [naive.expanded(vectors[i].numpy(), naive.others(vectors.numpy(), i), 6, 2.0) for i in range(IMAGES)]
    )
    found = _all(DatabaseAugmentation(vectors, vectors, own=own, transductive=True, **DBA))
    np.testing.assert_allclose(found, augmented @ augmented.T, atol=1e-12)
    found = _all(Diffusion(vectors, vectors, own=own, transductive=True, **WALK))
    for row in range(0, IMAGES, 50):
        expected = naive.diffusion(vectors[row].numpy(), vectors.numpy(), *WALK.values(), own=row)
        np.testing.assert_allclose(found[row], expected, atol=1e-12)


def test_expanded_queries_leave_their_own_row_out(vectors: Tensor) -> None:
    moved = QueryExpansion(vectors, vectors, own=torch.arange(IMAGES), neighbours=5, alpha=2.0, memory=1)
    found = torch.cat([moved.block(slice(row, row + 1)) for row in range(IMAGES)])
    for row in range(0, IMAGES, 30):
        rest = naive.others(vectors.numpy(), row)
        np.testing.assert_allclose(
            found[row], naive.expanded(vectors[row].numpy(), rest, 5, 2.0) @ vectors.numpy().T, atol=1e-12
        )


@pytest.mark.parametrize("build", [DatabaseAugmentation, Diffusion])
def test_little_memory_changes_nothing(build: Build, vectors: Tensor) -> None:
    own = torch.arange(IMAGES)
    little = build(vectors, vectors, own=own, memory=1)
    assert little.rows_at_once == 1
    torch.testing.assert_close(_all(little, 1), _all(build(vectors, vectors, own=own)), atol=1e-12, rtol=0)


def test_k_reciprocal_is_the_authors_with_one_query_at_a_time(vectors: Tensor) -> None:
    options = {"neighbours": 8, "local": 3, "mix": 0.3}
    for memory in (1, 2**28):
        scores = _all(KReciprocal(vectors, vectors, own=torch.arange(IMAGES), memory=memory, **options))
        for row in range(0, IMAGES, 60):
            rest = np.delete(np.arange(IMAGES), row)
            expected = naive.k_reciprocal(vectors[row].numpy(), vectors[rest].numpy(), *options.values())
            np.testing.assert_allclose(scores[row, rest], expected, atol=1e-12)
    alone = KReciprocal(vectors[:1], vectors[1:], **options).block(slice(0, 1))[0]  # a query from outside
    np.testing.assert_allclose(alone, scores[0, 1:], atol=1e-12)


def test_k_reciprocal_of_two_thousand_images(many: Tensor) -> None:
    options = {"neighbours": 6, "local": 3, "mix": 0.3}
    own = torch.tensor([1234])
    found = KReciprocal(many[own], many, own=own, memory=2**20, **options).block(slice(0, 1))[0]
    rest = np.delete(np.arange(2000), 1234)
    expected = naive.k_reciprocal(many[1234].numpy(), many[rest].numpy(), *options.values())
    np.testing.assert_allclose(found[rest], expected, atol=1e-12)


def test_k_reciprocal_refuses(vectors: Tensor) -> None:
    with pytest.raises(DataError, match="--transductive"):
        KReciprocal(vectors[:2], vectors[2:])
    with pytest.raises(DataError, match="not the gallery row"):
        KReciprocal(vectors[:2], vectors, own=torch.tensor([3, 4]))
    rounded = vectors[:2] * (1 + 1e-12 * torch.randn(2, DIM, dtype=vectors.dtype))  # as made in other blocks
    KReciprocal(rounded, vectors, own=torch.arange(2))
    assert KReciprocal(vectors[:2], vectors[2:], transductive=True).block(slice(0, 2)).shape == (2, IMAGES - 2)


def test_more_neighbours_than_there_are() -> None:
    few = torch.eye(4)
    own = torch.arange(4)
    for build, legal in ((QueryExpansion, 3), (DatabaseAugmentation, 2), (Diffusion, 2)):
        message = f"neighbours of {build.called} is {legal + 1}; 1 to {legal} are legal in a gallery of 4 images"
        with pytest.raises(DataError, match=message):
            build(few, few, own=own, neighbours=legal + 1)
        assert build(few, few, own=own, neighbours=legal).block(slice(0, 4)).isfinite().all()
    with pytest.raises(DataError, match="local of k-reciprocal is 5; 1 to 4 are legal"):
        KReciprocal(few, few, own=own, neighbours=3, local=5)
    KReciprocal(few, few, own=own, neighbours=3, local=4)
    with pytest.raises(DataError, match="not one can be had in a gallery of 1 images"):
        Diffusion(few[:1], few[:1], own=own[:1])
    with pytest.raises(DataError, match="of the same model"):
        Diffusion(few, torch.eye(5))


@pytest.mark.parametrize("build", [QueryExpansion, DatabaseAugmentation, Diffusion, KReciprocal])
def test_vectors_that_do_not_go_together(build: Build, vectors: Tensor) -> None:
    for bad in (torch.nan, torch.inf):
        broken = vectors.clone()
        broken[7, 3] = bad
        with pytest.raises(EmbeddingError, match="vector 7 holds NaN or infinity"):
            build(broken, broken, own=torch.arange(IMAGES))
        with pytest.raises(EmbeddingError, match="holds NaN"):
            fit_whitening(broken)
    with pytest.raises(DataError, match="of one type on one device"):
        build(vectors.float(), vectors)
    for own in (torch.arange(3), torch.arange(IMAGES) + 1):
        with pytest.raises(DataError, match=f"gallery row below {IMAGES}"):
            build(vectors, vectors, own=own)


def test_whitened_training_vectors_are_white(many: Tensor, tmp_path: Path) -> None:
    whitening = fit_whitening(many, 8)
    rows = naive.unit(many.numpy())
    projected = (rows - rows.mean(0)) @ whitening.projection.numpy().T
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(8), atol=1e-9)
    # The directions are those of scikit-learn, up to sign.
    from sklearn.decomposition import PCA

    theirs = PCA(8, whiten=True, svd_solver="full").fit(rows).transform(rows)
    np.testing.assert_allclose(whitening(many).abs().numpy(), np.abs(naive.unit(theirs)), atol=1e-9)
    whitening.save(tmp_path / "whitening.safetensors")
    again = load_whitening(tmp_path / "whitening.safetensors")
    torch.testing.assert_close(again(many), whitening(many), atol=1e-5, rtol=0)


def test_whitening_refuses(vectors: Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="span 3"):
        fit_whitening(vectors[:4], 8)
    with pytest.raises(DataError, match="16 dimensions and these vectors have 4"):
        fit_whitening(vectors)(torch.eye(4))
    with pytest.raises(DataError, match="cannot read the whitening"):
        load_whitening(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"pickle")
    with pytest.raises(DataError, match="cannot read the whitening"):
        load_whitening(tmp_path / "bad.safetensors")
