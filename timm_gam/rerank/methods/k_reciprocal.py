"""k-reciprocal re-ranking."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.core import DataError
from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.sparse.lists import neighbour_lists
from timm_gam.rerank.sparse.rows import SparseRows, entries_of, joined
from timm_gam.rerank.unit_vectors import UnitVectors, Vectors


class KReciprocal(Reranker):
    """Images score by how much of their neighbourhoods they share with the query, where neighbours are mutual.

    Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017). N(p, k): p and
    its k nearest. R(p, k): those of N(p, k) that have p in their own (equation 2). R*(p): R(p, k1), and of each q in it
    R(q, k1 / 2) where more than 2/3 of that lies in R(p, k1) (equation 3). V(p, g) = exp(-d(p, g)) for g in R*(p), rows
    brought to the sum 1 (equations 7), then the mean over N(p, k2 - 1) (equation 11). Score: (1 - mix) J + mix q.g with
    J = m / (2 - m), m = sum over i of min(V(q, i), V(g, i)) (equations 10 and 12). Here d = 1 - cosine.

    The graph holds the gallery and the query, as in the paper. Where a query is a gallery image, that row is the query
    and nothing else of it is in the graph, so the strict form and the transductive one are the same. Queries from
    outside would all be in one graph: several of them have the transductive form only.

    Args:
        neighbours: k1.
        local: k2, how many neighbourhoods are averaged, the image's own among them; 1: none.
        mix: Share of the cosine similarity in the score (the paper's lambda), in [0, 1].
        others: As `Reranker`.

    Raises:
        DataError: the gallery has too few rows, a query is not its own row, or several from outside in strict form.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> KReciprocal(vectors, vectors, own=torch.arange(4), neighbours=1, local=1).block(slice(0, 1)).argsort()[0, -2:]
    tensor([1, 0])
    """

    called = "k-reciprocal"

    def __init__(
        self,
        queries: Vectors,
        gallery: Vectors,
        *,
        neighbours: int = 20,
        local: int = 6,
        mix: float = 0.3,
        transductive: bool = False,
        **others: object,
    ) -> None:
        super().__init__(queries, gallery, transductive=transductive, **others)  # type: ignore[arg-type]
        self.check({"neighbours": neighbours, "local": local}, len(self.gallery), within=self.within)
        outside = torch.nonzero(self.own < 0)[:, 0]
        if len(outside) > 1 and not transductive:
            raise DataError(
                f"{len(outside)} queries are not in the gallery, and k-reciprocal re-ranking has all in one graph; "
                "that is its transductive form (--transductive)"
            )
        inside = torch.nonzero(self.own >= 0)[:, 0]
        step = max(1, self.memory // (8 * self.gallery.row_bytes))
        for start in range(0, len(inside), step):
            some = inside[start : start + step]
            mine, there = self.queries[some], self.gallery[self.own[some]]
            rounding = torch.finfo(mine.dtype).eps ** 0.5
            if not torch.allclose(mine, there, rtol=0, atol=rounding):
                raise DataError("a query is not the gallery row that is said to be its own")
        self.mix, self._count = mix, len(self.gallery)
        self._node = self.own.clone()
        self._node[outside] = self._count + torch.arange(len(outside), device=outside.device)
        images = self.gallery.followed_by(self.queries[outside])
        all_rows = torch.arange(len(images), device=images.device)
        width = max(neighbours, local - 1)
        near, _ = neighbour_lists(images, images, width, own=all_rows, memory=self.memory // 2)
        lists = torch.cat([all_rows[:, None], near], dim=1)
        encoded = _encodings(images, lists[:, : neighbours + 1], self.memory // 2)
        self._rows = _averaged(encoded, lists[:, :local], self.memory // 2)
        del encoded, near, lists
        self._columns = self._rows.transposed()

    @classmethod
    def most(cls, others: int, within: bool, strict: bool) -> dict[str, int]:
        return {"neighbours": others, "local": others + 1}

    def block(self, rows: slice) -> Tensor:
        scores = self.mix * self.gallery.similarities(self.queries[rows])
        node = self._node[rows]
        for place in range(len(node)):  # one by one: what each shares with all others fits into cache
            entries = slice(int(self._rows.first[node[place]]), int(self._rows.first[node[place] + 1]))
            columns, values = self._rows.columns[entries], self._rows.values[entries]
            which, found = entries_of(self._columns.first, columns)
            least = torch.minimum(values[which], self._columns.values[found])
            shared = torch.zeros(len(self._rows), dtype=scores.dtype, device=scores.device)
            shared = shared.index_add_(0, self._columns.columns[found], least)[: self._count]
            scores[place] += (1 - self.mix) * shared / (2 - shared)
        return scores


def _encodings(images: UnitVectors, lists: Tensor, memory: int) -> SparseRows:
    """(M, M) rows V(p, .) before they are averaged, from (M, k1 + 1) lists that begin with the image itself."""
    half = lists[:, : round((lists.shape[1] - 1) / 2) + 1]
    mutual_half = _mutual(half, half, memory)
    wide, narrow = lists.shape[1], half.shape[1]
    step = max(1, memory // (wide * (2 * wide * narrow + 8 * narrow * 4) + 4 * images.shape[1] * wide * 16))
    parts = []
    for start in range(0, len(lists), step):
        some = lists[start : start + step]
        mutual = _mutual(some, lists, memory)
        sets, inside = half[some], mutual_half[some]  # (C, k1 + 1, k1 / 2 + 1): of each neighbour its own
        known = torch.where(mutual, some, -1)
        common = (sets[..., None] == known[:, None, None, :]).any(dim=3) & inside
        taken = mutual & (3 * common.sum(dim=2) > 2 * inside.sum(dim=2))
        row, place = torch.nonzero(mutual, as_tuple=True)
        wider, neighbour, member = torch.nonzero(inside & taken[..., None], as_tuple=True)
        rows = torch.cat([row, wider])
        columns = torch.cat([some[row, place], sets[wider, neighbour, member]])
        keys = torch.unique(rows * len(images) + columns)
        rows, columns = keys // len(images), keys % len(images)
        weights = torch.cat(
            [
                ((images[start + rows[i : i + step]] * images[columns[i : i + step]]).sum(dim=1) - 1).exp()
                for i in range(0, len(rows), step)
            ]
        )
        total = torch.zeros(len(some), dtype=weights.dtype, device=weights.device).index_add_(0, rows, weights)
        parts.append(SparseRows.of_pairs(rows, columns, weights / total[rows], (len(some), len(images))))
    return joined(parts)


def _mutual(some: Tensor, lists: Tensor, memory: int) -> Tensor:
    """(C, W) whether each of the listed has on its list the image that the row begins with."""
    step = max(1, memory // (9 * some.shape[1] * lists.shape[1]))
    return torch.cat(
        [(lists[some[i : i + step]] == some[i : i + step, :1, None]).any(dim=2) for i in range(0, len(some), step)]
    )


def _averaged(encoded: SparseRows, lists: Tensor, memory: int) -> SparseRows:
    """The mean of the rows of each image's list."""
    local = lists.shape[1]
    entries = max(1, int(encoded.first[-1]) // len(encoded))
    step = max(1, memory // (80 * local * entries))
    parts = []
    for start in range(0, len(lists), step):
        some = lists[start : start + step]
        which, found = entries_of(encoded.first, some.flatten())
        rows, values = which // local, encoded.values[found] / local
        parts.append(SparseRows.of_pairs(rows, encoded.columns[found], values, (len(some), encoded.width)))
    return joined(parts)
