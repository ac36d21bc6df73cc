"""What every re-ranking of a gallery has in common: scores of some queries against all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from timm_gam.core import DataError
from timm_gam.rerank.unit_vectors import UnitVectors, Vectors

_MOST_ROWS = 512  # queries at a time: a batch of columns that stays in cache


class Reranker(ABC):
    """Scores Q queries against N gallery images, higher for nearer, whole rows at a time.

    Args:
        queries: (Q, D) floats of any length: tensor, array or memory map. No copy of them is made.
        gallery: (N, D) likewise, same dtype and device.
        own: (Q,) int64, the gallery row that is the query itself, -1 where it is not in the gallery; default none.
        transductive: Prepare the gallery once, with queries' own rows in it. False, the strict form: each query's
            ranking is what it would be without its own row. The same where no query has one.
        memory: Bytes this may use beyond the vectors.

    Raises:
        DataError: shapes, types or devices that do not go together.
    """

    def __init__(
        self,
        queries: Vectors,
        gallery: Vectors,
        *,
        own: Tensor | None = None,
        transductive: bool = False,
        memory: int = 512 * 2**20,
    ) -> None:
        if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            raise DataError(
                f"queries have shape {tuple(queries.shape)} and the gallery {tuple(gallery.shape)}; (Q, D) and (N, D) "
                "of the same model are needed"
            )
        self.gallery, self.memory = UnitVectors(gallery), memory
        self.queries = self.gallery if queries is gallery else UnitVectors(queries)
        device = self.gallery.device
        self.own = torch.full((len(queries),), -1, device=device) if own is None else own.to(device)
        self.within = bool((self.own >= 0).any())  # queries are in the gallery
        self.strict = self.within and not transductive

    @property
    def rows_at_once(self) -> int:
        """Queries that fit into the memory together."""
        return max(1, min(_MOST_ROWS, self.memory // max(1, self.bytes_per_query())))

    @abstractmethod
    def block(self, rows: slice) -> Tensor:
        """(B, N) finite scores of consecutive queries; that of a query to its own row says nothing."""

    def bytes_per_query(self) -> int:
        """What one query of a block takes while its scores are computed."""
        return 3 * self.gallery.dtype.itemsize * len(self.gallery)
