"""Alpha query expansion."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.sparse.lists import neighbour_lists, similarity_weights, unit
from timm_gam.rerank.unit_vectors import UnitVectors, Vectors


def expanded(
    queries: Tensor, gallery: UnitVectors, neighbours: int, alpha: float, own: Tensor | None, memory: int
) -> Tensor:
    """(Q, D) rows of length 1 as `QueryExpansion` moves them, of length 1."""
    rows, similarities = neighbour_lists(queries, gallery, neighbours, own=own, memory=memory)
    weights = similarity_weights(similarities, alpha)
    step = max(1, memory // (3 * gallery.row_bytes * (neighbours + 1)))
    sums = torch.empty_like(queries)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        near = gallery[rows[some].flatten()].view(-1, neighbours, queries.shape[1])
        sums[some] = queries[some] + torch.einsum("pk,pkd->pd", weights[some], near)
    return unit(sums)


class QueryExpansion(Reranker):
    """Each query moves towards what it finds, and gallery images score by their cosine with where it comes to.

    q' = (q + sum over its k nearest g of max(0, q.g)^alpha g) / |...|. Radenovic, Tolias, Chum, "Fine-tuning CNN Image
    Retrieval with No Human Annotation" (TPAMI 2019), section 3.4; alpha = 0 is the average query expansion of Chum et
    al. (ICCV 2007). A query's own row is never among its neighbours: the strict and the transductive form are the same.

    Args:
        neighbours: k.
        alpha: Power of the similarity, at least 0.
        others: As `Reranker`.

    Raises:
        DataError: the gallery has too few rows.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> QueryExpansion(vectors, vectors, own=torch.arange(4), neighbours=1).block(slice(0, 1)).argsort()[0, -2:]
    tensor([1, 0])
    """

    called = "qe"

    def __init__(
        self, queries: Vectors, gallery: Vectors, *, neighbours: int = 10, alpha: float = 3.0, **others: object
    ) -> None:
        super().__init__(queries, gallery, **others)  # type: ignore[arg-type]
        self.check({"neighbours": neighbours}, len(self.gallery), within=self.within)
        self._neighbours, self._alpha = neighbours, alpha

    def block(self, rows: slice) -> Tensor:
        own, memory = self.own[rows], self.memory // 2
        new_queries = expanded(self.queries[rows], self.gallery, self._neighbours, self._alpha, own, memory)
        return self.gallery.similarities(new_queries)
