"""Neighbour lists as they would be without one row: who lists it, and what follows it on each list."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Listing:
    """P pairs of a query of a block and a gallery row that lists the query's own row among its k nearest.

    Attributes:
        place: (P,) the query, its place in the block.
        node: (P,) gallery row that lists the query's own row.
        rank: (P,) where on the list, 0 for the nearest.
    """

    place: Tensor
    node: Tensor
    rank: Tensor


class ListedBy:
    """Finds for any rows the gallery rows that list them.

    Args:
        rows: (N, k) int64 lists.
    """

    def __init__(self, rows: Tensor) -> None:
        self.count, self.width = rows.shape
        listed, self._order = rows.flatten().sort(stable=True)
        self._first = torch.searchsorted(listed, torch.arange(self.count + 1, device=rows.device))

    def of(self, own: Tensor) -> Listing:
        """All who list (B,) own rows; -1 is listed by none."""
        safe = own.clamp(min=0)
        first = self._first[safe]
        counts = torch.where(own >= 0, self._first[safe + 1] - first, 0)
        place = torch.repeat_interleave(torch.arange(len(own), device=own.device), counts)
        within = torch.arange(len(place), device=own.device) - (counts.cumsum(0) - counts)[place]
        entry = self._order[first[place] + within]
        return Listing(place, entry // self.width, entry % self.width)
