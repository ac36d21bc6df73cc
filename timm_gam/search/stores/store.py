"""What a store of a photo index does; which one an index has is chosen in `PhotoIndex.store`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import ProgressBar, no_progress
from timm_gam.search.photos.catalogue import PhotoFilter


@dataclass(frozen=True)
class Found:
    """A photograph's digest, and the cosine of its vector and a query's, in [-1, 1]."""

    digest: bytes
    score: float


class SearchStore(Protocol):
    """Finds the nearest photographs of a collection.

    The embeddings themselves are kept in its `FileStore`, the same that an evaluation's cache is. A store makes of them
    what it searches in, and can do so again whenever that is lost.
    """

    def plan(self, count: int, dim: int) -> str:
        """What so many embeddings of that dimension will take, to be told before they are made, or "".

        Raises:
            MachineError: more than there is; what to do instead.
        """

    def update(self, progress: ProgressBar = no_progress) -> None:
        """Search in what the catalogue has now: add what is new, let go of what is gone.

        Ended at any moment, the next update goes on.

        Raises:
            DataError: the store cannot be used.
        """

    def nearest(
        self, queries: NDArray[np.float32], k: int, chosen: PhotoFilter | None = None
    ) -> Sequence[Sequence[Found]]:
        """The k nearest of each query by cosine, nearest first; fewer where there are fewer.

        Args:
            queries: (Q, D) float32 embeddings.
            k: How many.
            chosen: Which photographs may be found.

        Raises:
            DataError: the store cannot be used.
        """
