"""Database-side augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.rerank.query_expansion import augmented, expanded
from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.sparse_lists import neighbour_lists, similarity_weights
from timm_gam.rerank.without_own import ListedBy


class DatabaseAugmentation(Reranker):
    """Every gallery vector moves towards its neighbours, and every query likewise; the score is their cosine.

    g' = (g + sum over its k nearest h of max(0, g.h)^alpha h) / |...|. Turcot, Lowe (ICCV Workshops 2009);
    Arandjelovic, Zisserman, "Three Things Everyone Should Know to Improve Object Retrieval" (CVPR 2012), section 4;
    weights by similarity as in Gordo et al., "End-to-End Learning of Deep Visual Representations" (IJCV 2017),
    section 5.2.

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

    def __init__(
        self, queries: Tensor, gallery: Tensor, *, neighbours: int = 20, alpha: float = 3.0, **others: object
    ) -> None:
        super().__init__(queries, gallery, **others)  # type: ignore[arg-type]
        everyone = torch.arange(len(self.gallery), device=self.gallery.device)
        lists = neighbour_lists(
            self.gallery, self.gallery, neighbours + self.strict, own=everyone, memory=self.memory // 2
        )
        self._rows, self._weights = lists.rows, similarity_weights(lists.similarities, alpha)
        first = slice(0, neighbours)
        self._vectors = augmented(
            self.gallery, self.gallery, self._rows[:, first], self._weights[:, first], self.memory // 2
        )
        self._neighbours, self._alpha = neighbours, alpha
        self._listed_by = ListedBy(self._rows[:, first]) if self.strict else None

    def block(self, rows: slice) -> Tensor:
        own, memory = self.own[rows], self.memory // 2
        sought = expanded(self.queries[rows], self.gallery, self._neighbours, self._alpha, own, memory)
        scores = sought @ self._vectors.T
        if self._listed_by is not None:
            listing = self._listed_by.of(self.own[rows])
            width, size = self._rows.shape[1], self.gallery.element_size() * self.gallery.shape[1]
            step = max(1, self.memory // (8 * size * width))
            for start in range(0, len(listing.node), step):
                some = slice(start, start + step)
                node, place = listing.node[some], listing.place[some]
                kept = torch.arange(width - 1, device=scores.device).expand(len(node), -1)
                kept = kept + (kept >= listing.rank[some, None])  # all but the own row, the next of the list at the end
                neighbours, weights = self._rows[node].gather(1, kept), self._weights[node].gather(1, kept)
                vectors = augmented(self.gallery[node], self.gallery, neighbours, weights, self.memory // 4)
                scores[place, node] = (sought[place] * vectors).sum(dim=1)
        return scores
