"""Database-side augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.rerank.methods.query_expansion import expanded
from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.sparse.lists import ListedBy, csr_of_lists, neighbour_lists, similarity_weights
from timm_gam.rerank.unit_vectors import Vectors


class DatabaseAugmentation(Reranker):
    """Every gallery vector moves towards its neighbours, and every query likewise; the score is their cosine.

    g' = (g + sum over its k nearest h of max(0, g.h)^alpha h) / |...|. Turcot, Lowe (ICCV Workshops 2009);
    Arandjelovic, Zisserman, "Three Things Everyone Should Know to Improve Object Retrieval" (CVPR 2012), section 4;
    weights by similarity as in Gordo et al., "End-to-End Learning of Deep Visual Representations" (IJCV 2017),
    section 5.2.

    No g' is made: q'.g' is the sum of q'.h over g and its neighbours, times their weights, by the length of that sum.

    Strict: a gallery image that lists the query's own row takes the next on its list instead, for that query.

    Args:
        neighbours: k.
        alpha: Power of the similarity, at least 0.
        others: As `Reranker`.

    Raises:
        DataError: the gallery has too few rows.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> DatabaseAugmentation(vectors, vectors, own=torch.arange(4), neighbours=1).block(slice(0, 1)).argsort()[0, -2:]
    tensor([1, 0])
    """

    called = "dba"

    def __init__(
        self, queries: Vectors, gallery: Vectors, *, neighbours: int = 20, alpha: float = 3.0, **others: object
    ) -> None:
        super().__init__(queries, gallery, **others)  # type: ignore[arg-type]
        self.check({"neighbours": neighbours}, len(self.gallery), within=self.within, transductive=not self.strict)
        all_rows = torch.arange(len(self.gallery), device=self.gallery.device)
        width, memory = neighbours + self.strict, self.memory // 2
        self._rows, near = neighbour_lists(self.gallery, self.gallery, width, own=all_rows, memory=memory)
        self._weights = similarity_weights(near, alpha)
        self._neighbours, self._alpha = neighbours, alpha
        self._moves = csr_of_lists(self._rows[:, :neighbours], self._weights[:, :neighbours])
        self._squares, self._moved_squares, self._moved_by_next = self._inner_products()
        self._listed_by = ListedBy(self._rows[:, :neighbours]) if self.strict else None

    @classmethod
    def most(cls, others: int, within: bool, strict: bool) -> dict[str, int]:
        return {"neighbours": others - strict}  # one more is listed: the next

    def _inner_products(self) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) g.g, m.m and m.h of every gallery vector, its m, the sum before it is of length 1, and the next h."""
        count, dim = self.gallery.shape
        own, moved_own, by_next = torch.zeros(3, count, dtype=self.gallery.dtype, device=self.gallery.device)
        step = max(1, self.memory // (8 * self.gallery.dtype.itemsize * count))
        for start in range(0, dim, step):
            part = self.gallery.components(slice(start, start + step))
            moved = part + self._moves @ part
            own += part.square().sum(dim=1)
            moved_own += moved.square().sum(dim=1)
            by_next += (moved * part[self._rows[:, -1]]).sum(dim=1)
        return own, moved_own, by_next

    def bytes_per_query(self) -> int:
        return 6 * self.gallery.dtype.itemsize * len(self.gallery)

    def block(self, rows: slice) -> Tensor:
        own = self.own[rows]
        new_queries = expanded(self.queries[rows], self.gallery, self._neighbours, self._alpha, own, self.memory // 4)
        cosines = self.gallery.similarities(new_queries)
        moved = cosines + (self._moves @ cosines.T.contiguous()).T
        scores = moved / _length(self._moved_squares)
        if self._listed_by is not None:
            self._without_own(scores, cosines, moved, own)
        return scores

    def _without_own(self, scores: Tensor, cosines: Tensor, moved: Tensor, own: Tensor) -> None:
        """Change what rows score that list a query's own row o: their m is without it and with the next, h.

        By inner products alone: with weights a of o and b of h, m' = m - a o + b h.
        """
        assert self._listed_by is not None
        near_own = self.gallery.similarities(self.gallery[own.clamp(min=0)])
        places, nodes, ranks = self._listed_by.of(own)
        step = max(1, self.memory // (64 * self._neighbours))
        for start in range(0, len(nodes), step):
            some = slice(start, start + step)
            node, place = nodes[some], places[some]
            out, following = own[place], self._rows[node, -1]
            a, b = self._weights[node, ranks[some]], self._weights[node, -1]
            listed = near_own[place[:, None], self._rows[node, :-1]]
            m_by_own = near_own[place, node] + (self._weights[node, :-1] * listed).sum(dim=1)
            square = self._moved_squares[node] + a**2 * self._squares[out] + b**2 * self._squares[following]
            square += 2 * (b * self._moved_by_next[node] - a * m_by_own - a * b * near_own[place, following])
            score = moved[place, node] - a * cosines[place, out] + b * cosines[place, following]
            scores[place, node] = score / _length(square)


def _length(squares: Tensor) -> Tensor:
    return squares.clamp(min=1e-30).sqrt()
