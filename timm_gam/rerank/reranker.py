"""What every re-ranking of a gallery has in common: scores of some queries against all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

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
        DataError: shapes, types or devices that do not go together, or a row that the gallery does not have.
        EmbeddingError: a vector holds NaN or infinity.
    """

    called: ClassVar[str]
    """Its name on the command line."""

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
        if (self.queries.dtype, self.queries.device) != (self.gallery.dtype, device):
            raise DataError(
                f"queries are {self.queries.dtype} on {self.queries.device} and the gallery {self.gallery.dtype} on "
                f"{device}; both of one type on one device are needed"
            )
        self.own = torch.full((len(queries),), -1, device=device) if own is None else own.to(device)
        if self.own.shape != (len(queries),) or bool(((self.own < -1) | (self.own >= len(gallery))).any()):
            raise DataError(
                f"own rows of shape {tuple(self.own.shape)} came for {len(queries)} queries; one each is needed, -1 or "
                f"a gallery row below {len(gallery)}"
            )
        self.within = bool((self.own >= 0).any())  # queries are in the gallery
        self.strict = self.within and not transductive

    @classmethod
    def check(cls, counts: Mapping[str, float], images: int, *, within: bool, transductive: bool = False) -> None:
        """Refuse options that ask for more neighbours than a gallery has.

        Args:
            counts: Option -> value; those that count no images are not looked at.
            images: N, of the gallery.
            within: Whether queries are in it.
            transductive: See above.

        Raises:
            DataError: the message says how many can be had.
        """
        others = images - 1
        for name, most in cls.most(others, within, within and not transductive).items():
            if not 1 <= counts[name] <= most:
                raise DataError(
                    f"{name} of {cls.called} is {counts[name]:g}; "
                    + (f"1 to {most} are legal" if most > 0 else "not one can be had")
                    + f" in a gallery of {images} images"
                )

    @classmethod
    def most(cls, others: int, within: bool, strict: bool) -> dict[str, int]:
        """Option -> the most neighbours it may ask for where each image has so many others."""
        return {"neighbours": others}

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
