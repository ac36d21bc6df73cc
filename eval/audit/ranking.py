"""A ranking from elsewhere as plain arrays, whichever file it came in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd  # comes with datasets
from numpy.typing import NDArray

from timm_gam.core import DataError


@dataclass(frozen=True)
class Ranking:
    """P rows (query, item, score) in the order of their file.

    Attributes:
        name: What outputs call it.
        queries: Q ids.
        items: G ids.
        query: (P,) int64 index into `queries`.
        item: (P,) int64 index into `items`.
        score: (P,) float64, higher is better; minus the place where the file has an order and no scores. May hold NaN.
        rank: (P,) int64 rank that the file states, or None.
    """

    name: str
    queries: tuple[str, ...]
    items: tuple[str, ...]
    query: NDArray[np.int64]
    item: NDArray[np.int64]
    score: NDArray[np.float64]
    rank: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if len(self.query) == 0:
            raise DataError(f"'{self.name}' ranks nothing; name a file with at least one ranked item")

    @classmethod
    def from_rows(
        cls,
        name: str,
        queries: Iterable[str],
        items: Iterable[str],
        scores: NDArray[np.float64] | None,
        rank: NDArray[np.int64] | None = None,
    ) -> Ranking:
        """From one query id, item id and score a row; without scores the order within a query ranks.

        Example:
            >>> Ranking.from_rows("run", ["q", "q"], ["a", "b"], np.array([2.0, 1.0])).items
            ('a', 'b')
        """
        (query, query_ids), (item, item_ids) = (pd.factorize(np.array(list(ids), object)) for ids in (queries, items))
        score = -_place(query).astype(np.float64) if scores is None else np.asarray(scores, dtype=np.float64)
        return cls(name, tuple(query_ids), tuple(item_ids), query, item, score, rank)

    @classmethod
    def from_mapping(cls, name: str, results: Mapping[str, Mapping[str, float]]) -> Ranking:
        """From query id -> item id -> score.

        Example:
            >>> Ranking.from_mapping("run", {"q": {"a": 2.0, "b": 1.0}}).score.tolist()
            [2.0, 1.0]
        """
        queries = [query for query, items in results.items() for _ in items]
        items = [item for ranked in results.values() for item in ranked]
        scores = np.array([score for ranked in results.values() for score in ranked.values()], dtype=np.float64)
        return cls.from_rows(name, queries, items, scores)

    @property
    def place(self) -> NDArray[np.int64]:
        """(P,) place of each row within its query, in the order of the file, from 0."""
        return _place(self.query)

    @property
    def depth(self) -> NDArray[np.int64]:
        """(Q,) rows of each query."""
        return np.bincount(self.query, minlength=len(self.queries))


def _place(query: NDArray[np.int64]) -> NDArray[np.int64]:
    return pd.Series(query).groupby(query).cumcount().to_numpy()  # type: ignore[no-any-return]
