"""Matrices of few entries per row, as plain arrays that any device adds up alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def entries_of(first: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of (W,) rows, those of row r from first[r] on: (P,) which of the wanted, (P,) which entry."""
    counts = first[wanted + 1] - first[wanted]
    which = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), counts)
    within = torch.arange(len(which), device=wanted.device) - (counts.cumsum(0) - counts)[which]
    return which, first[wanted][which] + within


@dataclass(frozen=True)
class SparseRows:
    """An (R, C) matrix by its entries, row by row.

    Attributes:
        first: (R + 1,) int64, where the entries of each row begin; the last is their number.
        columns: (E,) int32, ascending within a row.
        values: (E,) float.
        width: C.
    """

    first: Tensor
    columns: Tensor
    values: Tensor
    width: int

    @classmethod
    def of_pairs(cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseRows:
        """From entries in any order; those of one place are added."""
        keys, places = torch.unique(rows * shape[1] + columns, return_inverse=True)
        total = torch.zeros(len(keys), dtype=values.dtype, device=values.device).index_add_(0, places, values)
        starts = torch.arange(shape[0] + 1, device=keys.device) * shape[1]
        return cls(torch.searchsorted(keys, starts), (keys % shape[1]).int(), total, shape[1])

    def __len__(self) -> int:
        return len(self.first) - 1

    def transposed(self) -> SparseRows:
        """(C, R)."""
        device = self.first.device
        counts = torch.bincount(self.columns, minlength=self.width)
        order = self.columns.sort(stable=True).indices
        row = torch.repeat_interleave(torch.arange(len(self), device=device, dtype=torch.int32), self.first.diff())
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseRows(first, row[order], self.values[order], len(self))


def joined(parts: list[SparseRows]) -> SparseRows:
    """Rows of several, one after the other."""
    counts = torch.cat([part.first.diff() for part in parts])
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    columns, values = (torch.cat([getattr(part, name) for part in parts]) for name in ("columns", "values"))
    return SparseRows(first, columns, values, parts[0].width)
