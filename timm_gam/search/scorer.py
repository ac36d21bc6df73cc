"""The seam between what scores are and what is done with them: a scorer gives blocks of the score matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from timm_gam.search.exact_products import Kernel, fastest_kernel
from timm_gam.search.integer_vectors import FixedPoint, Rows


class Scorer(ABC):
    """Scores of Q queries against N gallery images, higher for nearer, a block at a time.

    Subclasses give `block`, float64 of the range of float32; scores tie where they are equal. The score of a pair must
    not depend on the block it is asked for in.

    Attributes:
        queries: Q.
        gallery: N.
        symmetric: Queries and gallery are one set, and score(i, j) equals score(j, i): each is asked for once.
        device: Where the blocks are.
        products: How scores are computed, for records.
    """

    products: str = ""

    def __init__(
        self, queries: int, gallery: int, *, symmetric: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.queries, self.gallery, self.symmetric, self.device = queries, gallery, symmetric, torch.device(device)

    @abstractmethod
    def block(self, rows: Rows, columns: Rows) -> Tensor:
        """(R, C) float64 scores of these queries against these gallery images, valid until the next block.

        Args:
            rows: Queries: a slice, or int64 indices in any order.
            columns: Gallery images, likewise.
        """

    def bytes_per_block(self, rows: int, columns: int) -> int:
        """What a block of this size takes, the scores included."""
        return 8 * rows * columns

    def keep(self, memory: int) -> None:
        """How many bytes beyond a block may be held from one block to the next; most have nothing to hold."""
        return


class ExactScorer(Scorer):
    """Scores without rounding: the dot product q.g for cosine, -|q - g|^2 for Euclidean distance, of the integers.

    Args:
        queries: Q vectors.
        gallery: N vectors on the same scale (selected from one `fixed_point`, or `on_one_scale`); default the queries.
        device: Where to compute. Embeddings that are elsewhere are moved there block by block; prepare them there
            (`resident`) where they fit.
        kernel: How products are computed; default the fastest there. All give the same scores.

    >>> points = fixed_point(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> scores = ExactScorer(points).block(slice(0, 1), slice(0, 3))
    >>> (scores / scores.max()).tolist()
    [[1.0, 0.0, 0.7071067690849304]]
    """

    def __init__(
        self,
        queries: FixedPoint,
        gallery: FixedPoint | None = None,
        *,
        device: torch.device | str = "cpu",
        kernel: Kernel | None = None,
    ) -> None:
        self.left, self.right = queries, queries if gallery is None else gallery
        super().__init__(len(self.left), len(self.right), symmetric=self.left is self.right, device=device)
        self.kernel = kernel or fastest_kernel(queries.dim, self.device, float(self.queries) * self.gallery)
        self.products = self.kernel.name
        self._cache_bytes, self._cache = 0, OrderedDict[tuple[bool, int, int], _Operand]()
        self._room = torch.empty(0, dtype=torch.float64, device=self.device)

    def block(self, rows: Rows, columns: Rows) -> Tensor:
        left = self._operand(self.left, rows)
        same = self.symmetric and np.array_equal(cast(Any, rows), cast(Any, columns))  # slices too
        right = left if same else self._operand(self.right, columns)
        # On a CPU, rows a multiple of 4096 bytes apart would share cache lines when they are read by columns.
        apart = 8 if self.device.type == "cpu" else 0
        shape = left.rows, right.rows + apart
        if self._room.numel() < shape[0] * shape[1]:  # memory that is used again needs no new pages
            self._room = torch.empty(shape[0] * shape[1], dtype=torch.float64, device=self.device)
        out = self._room[: shape[0] * shape[1]].view(shape)[:, : right.rows]
        self.kernel.multiply(left.vectors, right.vectors, out)
        if left.squares is not None and right.squares is not None:
            out.mul_(2.0).sub_(right.squares).sub_(left.squares[:, None])
        return out

    def bytes_per_block(self, rows: int, columns: int) -> int:
        operands = self.kernel.bytes_per_vector(self.left.dim) * (rows + columns)
        split = 0 if self.device.type == "cpu" else 16 * self.left.dim * min(rows, columns)
        return 8 * rows * (columns + 8) + operands + split

    def keep(self, memory: int) -> None:
        self._cache_bytes = memory

    def _operand(self, points: FixedPoint, rows: Rows) -> _Operand:
        if not isinstance(rows, slice):
            return self._prepared(points, rows)
        key, buffer = (points is self.right, rows.start, rows.stop), None
        if key not in self._cache:
            # The last is the other side of this block, which has its own memory, as the new one has.
            while sum(held.vectors.nbytes for held in [*self._cache.values()][:-1]) > self._cache_bytes:
                buffer = self._cache.popitem(last=False)[1].vectors
            self._cache[key] = self._prepared(points, rows, buffer)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _prepared(self, points: FixedPoint, rows: Rows, buffer: Tensor | None = None) -> _Operand:
        integers = points.integers(rows, self.device, buffer)
        squares = integers.square().sum(dim=1) if points.distance == "euclidean" else None
        return _Operand(len(integers), self.kernel.operand(integers), squares)


class _Operand(NamedTuple):
    """Integer vectors of a block as the kernel takes them, with their squared lengths where the distance needs them."""

    rows: int
    vectors: Tensor
    squares: Tensor | None
