"""Who is near whom among vectors of length 1: sparse lists, made block by block."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_gam.rerank.sparse.rows import entries_of
from timm_gam.rerank.unit_vectors import UnitVectors


def unit(vectors: Tensor) -> Tensor:
    """(N, D) rows of length 1; a row of zeros stays zero."""
    return F.normalize(vectors, dim=1, eps=1e-30)


def similarity_weights(similarities: Tensor, power: float) -> Tensor:
    """max(0, similarity)^power: how much a neighbour counts."""
    return similarities.clamp(min=0) ** power


def neighbour_lists(
    queries: Tensor | UnitVectors,
    gallery: UnitVectors,
    width: int,
    *,
    own: Tensor | None = None,
    memory: int = 256 * 2**20,
) -> tuple[Tensor, Tensor]:
    """The nearest gallery rows of each query by cosine similarity, nearest first.

    Args:
        queries: (Q, D) float rows of length 1.
        gallery: (N, D) of the same dtype and device.
        width: How many, W; at most what the gallery holds besides a query's own row, see `Reranker.check`.
        own: (Q,) int64 gallery row that is left out of a query's list, -1 for none; default none.
        memory: Bytes that a block of similarities may take.

    Returns:
        (Q, W) int64 gallery rows, and (Q, W) cosine similarities in [-1, 1], descending.

    >>> vectors = torch.eye(3) + 0.1
    >>> neighbour_lists(unit(vectors), UnitVectors(vectors), 1)[0].tolist()
    [[0], [1], [2]]
    """
    step = max(1, memory // (2 * gallery.dtype.itemsize * len(gallery)))
    # Room for all first: lists kept one by one lie between freed blocks and keep the allocator from using these again.
    rows = torch.empty(len(queries), width, dtype=torch.int64, device=gallery.device)
    similarities = torch.empty(len(queries), width, dtype=gallery.dtype, device=gallery.device)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        block = gallery.similarities(queries[some])
        if own is not None:
            hide(block, own[some])
        similarities[some], rows[some] = block.topk(width, dim=1)
    return rows, similarities


class ListedBy:
    """Finds for any rows the gallery rows that list them.

    Args:
        rows: (N, k) int64 lists.
    """

    def __init__(self, rows: Tensor) -> None:
        self.width = rows.shape[1]
        listed, self._order = rows.flatten().sort(stable=True)
        self._first = torch.searchsorted(listed, torch.arange(len(rows) + 1, device=rows.device))

    def of(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who list (B,) own rows, none a -1: (P,) places in the block, rows that list them, ranks there from 0."""
        here = torch.nonzero(own >= 0)[:, 0]
        which, found = entries_of(self._first, own[here])
        entry = self._order[found]
        return here[which], entry // self.width, entry % self.width


def csr_of_lists(rows: Tensor, weights: Tensor) -> Tensor:
    """(N, N) sparse, row by row the (N, k) weights of its list."""
    columns, order = rows.sort(dim=1)
    starts = torch.arange(len(rows) + 1, device=rows.device) * rows.shape[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts,
            columns.flatten(),
            weights.gather(1, order).flatten(),
            (len(rows), len(rows)),
            check_invariants=False,
        )


def hide(block: Tensor, own: Tensor, value: float = -float("inf")) -> None:
    """Set the similarity of each query to its own row, where it has one."""
    here = torch.nonzero(own >= 0)[:, 0]
    block[here, own[here]] = value
