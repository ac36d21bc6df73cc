"""Diffusion: a random walk over the neighbour graph of the gallery."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.sparse.lists import ListedBy, csr_of_lists, hide, neighbour_lists, similarity_weights
from timm_gam.rerank.unit_vectors import Vectors


class Diffusion(Reranker):
    """Images score by how much of a walk that starts at the query's neighbours passes through them.

    f = sum for t = 0 .. steps of (alpha S)^t y, the truncated series of (I - alpha S)^-1 y (Zhou et al., "Ranking on
    Data Manifolds", NIPS 2003; Iscen et al., "Efficient Diffusion on Region Manifolds", CVPR 2017, equations 3 and 6).
    S = D^-1/2 A D^-1/2, A = (B + B') / 2, B(i, j) = max(0, g_i.g_j)^gamma where j is among the k nearest of i, D the
    row sums of A. The query enters as one more image of the graph would: y = D^-1/2 (b + b') / 2, where b holds its k
    nearest and b' those that would list it; no walk returns to it. Score: (1 - mix) f / max f + mix q.g.

    Iscen et al. keep an edge only where both list each other and solve for the whole series; without either more is
    found here (docs/RERANKING.md).

    Strict: the query's own row, its edges and its part in the row sums are gone from its graph, and those that list
    it list the next instead.

    Args:
        neighbours: k.
        gamma: Power of the similarity.
        alpha: Share of the walk that goes on at each step, in [0, 1).
        steps: Where the series ends.
        mix: Share of the cosine similarity in the score, in [0, 1].
        others: As `Reranker`.

    Raises:
        DataError: the gallery has too few rows.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> Diffusion(vectors, vectors, own=torch.arange(4), neighbours=1).block(slice(0, 1)).argmax()
    tensor(1)
    """

    called = "diffusion"

    def __init__(
        self,
        queries: Vectors,
        gallery: Vectors,
        *,
        neighbours: int = 20,
        gamma: float = 3.0,
        alpha: float = 0.99,
        steps: int = 20,
        mix: float = 0.01,
        **others: object,
    ) -> None:
        super().__init__(queries, gallery, **others)  # type: ignore[arg-type]
        self.check({"neighbours": neighbours}, len(self.gallery), within=self.within)
        self.k, self.gamma, self.alpha, self.steps, self.mix = neighbours, gamma, alpha, steps, mix
        count, device = len(self.gallery), self.gallery.device
        all_rows = torch.arange(count, device=device)
        width, memory = neighbours + self.within, self.memory // 2
        self._rows, self._similarities = neighbour_lists(self.gallery, self.gallery, width, own=all_rows, memory=memory)
        self._weights = similarity_weights(self._similarities, gamma)
        first = slice(0, neighbours)
        self._affinity = _symmetric(self._rows[:, first], self._weights[:, first])
        self._degrees = self._affinity @ torch.ones(count, 1, dtype=self.gallery.dtype, device=device)
        self._listed_by = ListedBy(self._rows[:, first]) if self.within else None

    @classmethod
    def most(cls, others: int, within: bool, strict: bool) -> dict[str, int]:
        return {"neighbours": others - within}  # one more is listed: the next

    def bytes_per_query(self) -> int:
        return 13 * self.gallery.dtype.itemsize * len(self.gallery)

    def block(self, rows: slice) -> Tensor:
        similarities = self.gallery.similarities(self.queries[rows])
        changes = _Changes(self, self.own[rows])
        degrees = changes.degrees(self._degrees)  # (N, B): images are rows here
        left = degrees > 32 * torch.finfo(degrees.dtype).eps * self._degrees  # else all that is left is rounding
        scale = torch.where(left, degrees, torch.inf).rsqrt()
        start = self._start(similarities, rows, changes) * scale
        walk = start
        for _ in range(self.steps):
            walk = torch.addcmul(start, changes.step(walk * scale), scale, value=self.alpha)
        hide(walk.T, self.own[rows], 0.0)
        walk = walk / walk.amax(dim=0).clamp(min=1e-30)
        return torch.lerp(walk.T.contiguous(), similarities, self.mix)

    def _start(self, similarities: Tensor, rows: slice, changes: _Changes) -> Tensor:
        """(N, B) affinities of each query as if it were in the graph."""
        hide(similarities, self.own[rows])
        nearest = similarities.topk(self.k, dim=1)
        listed = similarities >= changes.thresholds()
        start = torch.where(listed, similarity_weights(similarities, self.gamma), 0.0)
        start.scatter_add_(1, nearest.indices, similarity_weights(nearest.values, self.gamma))
        hide(similarities, self.own[rows], 0.0)
        return start.T.contiguous() / 2


class _Changes:
    """What the graph of each query of a block lacks and has instead: its own row taken out.

    Pairs of (image, query) whose value differs from that of the whole graph; few per query.
    """

    def __init__(self, graph: Diffusion, own: Tensor) -> None:
        self.graph = graph
        self.queries = torch.nonzero(own >= 0)[:, 0]
        self.gone = own[self.queries]
        self.own = own
        # Those that list the own row would list the query too: with the own row in the graph or not, they are told by
        # the next on their list, as two equal similarities may differ by rounding.
        self.listing = None if graph._listed_by is None else graph._listed_by.of(own)
        if self.listing is not None:
            self.column, self.node, self.rank = self.listing
            self.next = graph._rows[self.node, graph.k]
            self.weight = graph._weights[self.node, graph.k] / 2

    def degrees(self, degrees: Tensor) -> Tensor:
        """(N, B) row sums of each query's graph."""
        changed = degrees.repeat(1, len(self.own))
        if self.listing is not None and self.graph.strict:
            graph = self.graph
            # A row that lists the own one loses that edge, and so does a row that the own one lists.
            lost = graph._weights[self.node, self.rank] / 2
            column = self.queries.repeat_interleave(graph.k)
            listed, back = graph._rows[self.gone, : graph.k].flatten(), graph._weights[self.gone, : graph.k].flatten()
            changed.index_put_((self.node, self.column), self.weight - lost, accumulate=True)
            changed.index_put_((self.next, self.column), self.weight, accumulate=True)
            changed.index_put_((listed, column), -back / 2, accumulate=True)
            changed[self.gone, self.queries] = 1.0
        return changed

    def thresholds(self) -> Tensor:
        """(B, N) similarity at which each image would list the query, or (1, N)."""
        graph = self.graph
        last = graph._similarities[:, graph.k - 1]
        if self.listing is None:
            return last[None]
        changed = last.repeat(len(self.own), 1)
        changed[self.column, self.node] = graph._similarities[self.node, graph.k]
        return changed

    def step(self, walk: Tensor) -> Tensor:
        """(N, B) A times a walk, in each query's own graph."""
        if self.listing is None or not self.graph.strict:
            return self.graph._affinity @ walk
        walk[self.gone, self.queries] = 0.0
        moved = self.graph._affinity @ walk
        moved.index_put_((self.node, self.column), self.weight * walk[self.next, self.column], accumulate=True)
        moved.index_put_((self.next, self.column), self.weight * walk[self.node, self.column], accumulate=True)
        moved[self.gone, self.queries] = 0.0
        return moved


def _symmetric(rows: Tensor, weights: Tensor) -> Tensor:
    """(N, N) sparse (B + B') / 2 of (N, k) lists and weights."""
    half = csr_of_lists(rows, weights / 2).to_sparse()
    return (half + half.t()).coalesce().to_sparse_csr()
