"""Exact nearest neighbours without a score matrix.

Of float32 embeddings on the CPU, a first pass multiplies these as they are and keeps a few candidates more than are
asked for, in half the time of exact products and a tenth for one query; the candidates are scored again without
rounding, by the integers of `timm_gam.search.integer_vectors`. A bound on the error of the first pass proves for each
query that no other image can be among its nearest. Where it does not, as with many equal images, that query is scored
without rounding throughout. The result is the same for every block size, thread count and matrix library.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import DataError
from timm_gam.search.blocks import in_threads, one_blas_thread, slices
from timm_gam.search.integer_vectors import ANY_SCALE, UNEQUAL, FixedPoint
from timm_gam.search.scorer import ExactScorer, Scorer

_QUERIES = 1024  # per block of the first pass
_GALLERY = 4096
_TILE_ROWS = 256  # prepared, or scored by a thread, at a time
_SPARE = 22  # candidates beyond those asked for
_UNIT = 2.0**-25  # brings integer vectors to a length of at most about 1
_MANTISSA = 2.0**-24  # relative error of one rounding to float32


class Neighbours(NamedTuple):
    """The k nearest gallery images of Q queries.

    Attributes:
        rows: (Q, k) int64 gallery rows, nearest first; of equal scores the lower row first.
        scores: (Q, k) float64 exact scores in the units of `timm_gam.search.integer_vectors`, descending.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


def on_one_scale(queries: FixedPoint, gallery: FixedPoint) -> tuple[FixedPoint, FixedPoint]:
    """The same vectors in the same integer units, for two sets that were prepared apart.

    Cosine has one scale for all sets. Euclidean distance has one per set, a power of two: the coarser is taken.

    Raises:
        DataError: they differ in dimensions or distance, or are too unequal for one scale.
    """
    if (queries.dim, queries.distance) != (gallery.dim, gallery.distance):
        raise DataError(
            f"queries have {queries.dim} dimensions for {queries.distance} distance, the gallery {gallery.dim} for "
            f"{gallery.distance}; both must be of the same model"
        )
    if queries.distance == "cosine":
        return queries, gallery
    scales = sorted(float(points.factor[0]) for points in (queries, gallery) if len(points.factor))
    if scales[0] * UNEQUAL < scales[-1] < ANY_SCALE:
        raise DataError(f"queries and gallery differ {scales[-1] / scales[0]:.2g} times in length; use cosine")
    one, other = (dataclasses.replace(p, factor=torch.full_like(p.factor, scales[0])) for p in (queries, gallery))
    return one, other


def nearest(
    queries: FixedPoint,
    gallery: FixedPoint,
    k: int = 10,
    *,
    self_index: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int], None] = lambda products: None,
) -> Neighbours:
    """The exactly nearest gallery images of each query.

    Score of query q and gallery image g: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance.

    Args:
        queries: Q vectors.
        gallery: N vectors on the same scale (`on_one_scale`).
        k: How many, at most N less one where queries are in the gallery.
        self_index: (Q,) int64, the gallery row that is the query itself and is left out, or -1 where there is none.
        device: Where to compute, with the same result everywhere.
        on_progress: Called with the number of (query, gallery image) pairs just scored.

    Raises:
        DataError: k is below 1 or above what the gallery has.
    """
    others = len(gallery) - (self_index is not None)
    if not 1 <= k <= others:
        raise DataError(f"{k} nearest neighbours were asked for; 1 to {others} can be had of this gallery")
    if not gallery.raw or torch.device(device).type != "cpu" or k + _SPARE >= len(gallery):
        return highest(ExactScorer(queries, gallery, device=device), k, self_index=self_index, on_progress=on_progress)
    itself = np.full(len(queries), -1, dtype=np.int64) if self_index is None else self_index
    values, candidates = _first_pass(queries, gallery, k + _SPARE, on_progress)
    scores = pair_scores(queries, gallery, candidates)
    scores[candidates == itself[:, None]] = -np.inf
    order = np.lexsort((candidates, -scores), axis=1)[:, :k]  # of equal ones the lower row first
    found = Neighbours(np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1))
    uncertain = np.flatnonzero(found.scores[:, -1] * _UNIT**2 <= values[:, -1] + _bound(queries.dim))
    exact = highest(ExactScorer(queries.take(uncertain), gallery), k, self_index=itself[uncertain])
    found.rows[uncertain], found.scores[uncertain] = exact
    return found


def highest(
    scorer: Scorer,
    k: int,
    *,
    self_index: NDArray[np.int64] | None = None,
    on_progress: Callable[[int], None] = lambda products: None,
) -> Neighbours:
    """The k gallery images of each query that score highest, by any scorer; of equal ones the lower row first.

    Args:
        scorer: Scores of Q queries against N gallery images.
        k: How many, at most N less one where queries are in the gallery.
        self_index: As given to `nearest`, like the next.
        on_progress: Called with the number of pairs just scored.
    """
    itself = torch.from_numpy(np.full(scorer.queries, -1) if self_index is None else self_index).to(scorer.device)
    rows = torch.empty(scorer.queries, k, dtype=torch.int64)
    values = torch.empty(scorer.queries, k, dtype=torch.float64)
    for here in slices(0, scorer.queries, _QUERIES):
        best = torch.empty(here.stop - here.start, 0, dtype=torch.float64, device=scorer.device)
        places = torch.empty_like(best, dtype=torch.int64)
        for there in slices(0, scorer.gallery, _GALLERY):
            scores = scorer.block(here, there) + 0.0  # a copy, in which -0.0 is 0.0
            own = itself[here] - there.start
            inside = torch.nonzero((own >= 0) & (own < scores.shape[1]))[:, 0]
            scores[inside, own[inside]] = -torch.inf
            # All that are as high as the k-th, so that of equal ones the lower rows can be kept.
            floor = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]
            width = int((scores >= floor).sum(dim=1).max())
            kept = scores.topk(width, dim=1).indices.sort(dim=1).values
            both = torch.cat([best, scores.gather(1, kept)], dim=1)
            best, order = both.sort(dim=1, descending=True, stable=True)
            best = best[:, :k]
            places = torch.cat([places, kept + there.start], dim=1).gather(1, order[:, :k])
            on_progress(scores.numel())
        rows[here], values[here] = places.cpu(), best.cpu()
    return Neighbours(rows.numpy(), values.numpy())


def pair_scores(queries: FixedPoint, gallery: FixedPoint, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q, W) exact scores of each query against its own (Q, W) gallery rows."""
    scores = np.empty(rows.shape)
    step = max(1, _TILE_ROWS // rows.shape[1])
    for start in range(0, len(rows), step):
        some = slice(start, min(start + step, len(rows)))
        left = queries.integers(some).numpy()[:, None]
        right = gallery.integers(rows[some].ravel()).numpy().reshape(*rows[some].shape, -1)
        if queries.distance == "euclidean":
            right -= left
            scores[some] = -np.einsum("qwd,qwd->qw", right, right)
        else:
            scores[some] = np.einsum("qwd,qwd->qw", np.broadcast_to(left, right.shape), right)
    return scores


def _bound(dim: int) -> float:
    """Of the error of the first pass, for vectors of length 1.

    That of a float32 dot product of D terms (Higham, Accuracy and Stability, section 3.1), of the query and of a
    factor; and of embeddings that are not rounded to integers, by up to 2^-26 in each component: less than
    sqrt(D) / 4 times 2^-24 in all.
    """
    return 1.01 * (1.25 * dim + 8) * _MANTISSA


def _first_pass(
    queries: FixedPoint, gallery: FixedPoint, width: int, on_progress: Callable[[int], None]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(Q, width) float32 scores of the gallery's embeddings as they are, descending, and their gallery rows."""
    left = np.empty((len(queries), queries.dim), dtype=np.float32)
    for rows in slices(0, len(queries), _TILE_ROWS):
        left[rows] = queries.integers(rows).mul_(_UNIT)
    values, places = torch.full((len(left), width), -torch.inf), torch.zeros(len(left), width, dtype=torch.int64)

    def add(there: slice, right: NDArray[np.float32], factor: Tensor, here: slice) -> None:
        scores = torch.from_numpy(left[here] @ right.T).mul_(factor)
        top, columns = scores.topk(min(width, scores.shape[1]), dim=1)
        kept = torch.cat([values[here], top], dim=1).topk(width, dim=1)
        values[here] = kept.values
        places[here] = torch.cat([places[here], columns + there.start], dim=1).gather(1, kept.indices)

    with one_blas_thread():
        for there in slices(0, len(gallery), _GALLERY):
            right, factor = gallery.raw_block(there)
            in_threads(functools.partial(add, there, right, (factor * _UNIT).float()), slices(0, len(left), _TILE_ROWS))
            on_progress(len(left) * (there.stop - there.start))
    return values.double().numpy(), places.numpy()
