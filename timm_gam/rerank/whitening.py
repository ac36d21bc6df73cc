"""PCA-whitening, fitted on training images and kept beside a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from timm_gam.core import DataError, EmbeddingError, atomic_path
from timm_gam.embed import power_of
from timm_gam.rerank.sparse.lists import unit
from timm_gam.rerank.unit_vectors import Vectors, tensor_of


@dataclass(frozen=True)
class Whitening:
    """x -> P (x - mean), of length 1.

    Attributes:
        mean: (D,) float.
        projection: (W, D) float.
    """

    mean: Tensor
    projection: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """(N, D) vectors -> (N, W) of length 1, in their dtype and on their device.

        Raises:
            DataError: they have another length.
        """
        if vectors.shape[1] != len(self.mean):
            raise DataError(
                f"the whitening is for {len(self.mean)} dimensions and these vectors have {vectors.shape[1]}; "
                "fit it on embeddings of this model"
            )
        mean, projection = (part.to(vectors) for part in (self.mean, self.projection))
        return unit((unit(vectors) - mean) @ projection.T)

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_path(path) as temporary:
            save_file({"mean": self.mean.float(), "projection": self.projection.float().contiguous()}, temporary)


def fit_whitening(vectors: Vectors, dim: int | None = None, *, power: float = 1.0) -> Whitening:
    """Directions of the training vectors, the spread of each levelled: P = diag(l)^(-1/2) E'.

    l and E are the largest `dim` eigenvalues and eigenvectors of the covariance of vectors of length 1. Jegou, Chum,
    "Negative Evidences and Co-occurrences in Image Retrieval" (ECCV 2012), section 3.

    Args:
        vectors: (N, D) floats, of training images only: what is scored with it must not be among them. Read in blocks.
        dim: Directions to keep; default all that the vectors span.
        power: What every component of the vectors is raised to first, its sign kept, in (0, 1].

    Raises:
        DataError: more directions than the vectors span.
        EmbeddingError: a vector holds NaN or infinity.

    >>> fit_whitening(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])).projection.shape
    torch.Size([2, 2])
    """
    source = tensor_of(vectors)
    count = len(source)
    mean = torch.zeros(source.shape[1], dtype=torch.float64, device=source.device)
    for block in _doubles(source, power):  # sums kept one by one would lie between freed blocks, which then stay taken
        mean += block.sum(dim=0) / count
    if not mean.isfinite().all():
        raise EmbeddingError("a training vector holds NaN or infinity; check the weights and the precision")
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=source.device)
    for block in _doubles(source, power):
        centred = block - mean
        covariance += centred.T @ centred / count
    values, directions = torch.linalg.eigh(covariance)
    values, directions = values.flip(0), directions.flip(1)
    spanned = int((values > values[0] * 1e-10).sum()) if values[0] > 0 else 0
    kept = spanned if dim is None else dim
    if not 1 <= kept <= spanned:
        raise DataError(
            f"whitening to {kept} dimensions was asked for; {count} training vectors span {spanned}: "
            f"1 to {spanned} can be had"
        )
    return Whitening(mean.to(source), (directions[:, :kept] * values[:kept] ** -0.5).T.to(source))


def _doubles(vectors: Tensor, power: float) -> Iterator[Tensor]:
    """Rows of length 1 as float64, some megabytes at a time."""
    step = max(1, 2**20 // vectors.shape[1])
    blocks = (vectors[start : start + step] for start in range(0, len(vectors), step))
    return (unit(power_of(block, power).double()) for block in blocks)


def load_whitening(path: Path) -> Whitening:
    """Read what `Whitening.save` wrote.

    Raises:
        DataError: no such file, or no whitening.
    """
    try:
        parts = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read the whitening '{path}': {error}; fit it with fit_whitening") from error
    mean, projection = parts.get("mean"), parts.get("projection")
    if mean is None or projection is None or projection.ndim != 2 or mean.shape != projection.shape[1:]:
        raise DataError(f"'{path}' is no whitening: it needs mean (D,) and projection (W, D)")
    return Whitening(mean, projection)
