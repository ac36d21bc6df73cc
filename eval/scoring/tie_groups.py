"""The tied groups of rankings that hold relevant images: all that metrics of a ranking with ties need."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.scoring.ranking import RelevantRanks


@dataclass(frozen=True)
class TieGroups:
    """The tied groups that hold relevant images, for Q queries: G groups in rank order within each query.

    Tensors on one device. A metric is the same there to the last digit as anywhere else.

    Attributes:
        num_relevant: (Q,) int64, R of each query.
        row: (G,) int64 in [0, Q), the query of each group.
        start: (G,) int64, images ranked strictly above the group.
        size: (G,) int64 >= 1, images in the group.
        relevant: (G,) int64 in [1, size], relevant images in it.
        relevant_before: (G,) int64, relevant images ranked strictly above it.
    """

    num_relevant: Tensor
    row: Tensor
    start: Tensor
    size: Tensor
    relevant: Tensor
    relevant_before: Tensor

    @classmethod
    def of(cls, ranks: RelevantRanks) -> TieGroups:
        """Group the (query, relevant image) pairs of `ranks` that share a score."""
        row, above, tied = ranks.row, ranks.above, ranks.tied
        key = row * (1 + (above.max() if len(above) else 0)) + above
        if not bool((key[1:] >= key[:-1]).all()):
            order = torch.argsort(key, stable=True)
            row, above, tied = row[order], above[order], tied[order]
        opens = torch.ones(len(row), dtype=torch.bool, device=row.device)
        opens[1:] = (row[1:] != row[:-1]) | (above[1:] != above[:-1])
        heads = torch.nonzero(opens)[:, 0]
        relevant = torch.diff(heads, append=heads.new_tensor([len(row)]))
        before = _starts(row, len(ranks.query))
        of_head = row[heads]
        return cls(before.diff(), of_head, above[heads], tied[heads], relevant, heads - before[of_head])

    def reaching(self, cutoff: int | Tensor) -> TieGroups:
        """Without the groups past the first `cutoff` ranks that say nothing about them: all but each query's first."""
        limit = cutoff[self.row] if isinstance(cutoff, Tensor) else cutoff
        return self._some(torch.nonzero((self.start < limit) | (self.relevant_before == 0))[:, 0])

    @functools.cached_property
    def first(self) -> TieGroups:
        """The first group of each query that has any."""
        return self._some(torch.nonzero(self.relevant_before == 0)[:, 0])

    @functools.cached_property
    def near(self) -> TieGroups:
        """Without those past the first R ranks, as `reaching`."""
        return self.reaching(self.num_relevant)

    def _some(self, kept: Tensor) -> TieGroups:
        per_group = (self.row, self.start, self.size, self.relevant, self.relevant_before)
        return TieGroups(self.num_relevant, *(values[kept] for values in per_group))

    def total(self, per_group: Tensor) -> Tensor:
        """Sum a (G,) quantity over the groups of each query -> (Q,) float64, added in rank order on every device."""
        if per_group.device.type == "cpu":
            return torch.bincount(self.row, weights=per_group.double(), minlength=len(self.num_relevant))
        return self._total_by_column(per_group)

    def _total_by_column(self, per_group: Tensor) -> Tensor:
        """`total` where additions to one place come in any order: running sums over first groups, second ones, ..."""
        place, most = self._place
        # Sums run along the first axis of a matrix one after the other; along the only one of a vector in any order.
        table = torch.zeros(most, len(self.num_relevant) + 1, dtype=torch.float64, device=per_group.device)
        table[place, self.row] = per_group.double()
        return table.cumsum_(0)[-1, :-1] if most else table.sum(0)[:-1]

    @functools.cached_property
    def _place(self) -> tuple[Tensor, int]:
        """(G,) place of each group within its query, and the most groups that any query has."""
        before = _starts(self.row, len(self.num_relevant))
        place = torch.arange(len(self.row), device=self.row.device) - before[self.row]
        return place, int(before.diff().max()) if len(self.num_relevant) else 0

    def per_relevant(self, totals: Tensor) -> Tensor:
        """Divide (Q,) totals by R; NaN where a query has no relevant image."""
        return quotient(totals, self.num_relevant)

    def within(self, cutoff: int | Tensor) -> Tensor:
        """(G,) ranks of each group that lie within the first `cutoff` (one for all, or (Q,) per query)."""
        limit = cutoff[self.row] if isinstance(cutoff, Tensor) else cutoff
        return torch.minimum((limit - self.start).clamp(min=0), self.size)

    def expected_relevant(self, cutoff: int | Tensor) -> Tensor:
        """(Q,) expected number of relevant images within the first `cutoff` ranks."""
        return self.total((self.relevant * self.within(cutoff)).double() / self.size)


def _starts(row: Tensor, queries: int) -> Tensor:
    """(queries + 1,) where each query begins among ascending rows, and the end."""
    return torch.searchsorted(row, torch.arange(queries + 1, device=row.device))


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient where the denominator is above 0, NaN elsewhere. Both tensors: GPUs divide by a number inexactly."""
    return torch.where(denominator > 0, numerator.double() / denominator, torch.nan)
