"""Relevance judgements: which items are relevant to each query, how much, and which do not count at all.

Class labels say only "same class". Judgements say more: several graded relevant items of a query, items that are
ignored wherever they stand (junk: the revisited Oxford and Paris sets), and items that are the query itself under
another id. Voorhees and Harman, "TREC: Experiment and Evaluation in Information Retrieval" (2005), chapter 3; junk:
Radenovic, Iscen, Tolias, Avrithis, Chum, "Revisiting Oxford and Paris" (CVPR 2018), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

from timm_gam.core import DataError


@dataclass(frozen=True)
class Qrels:
    """Judgements of each query.

    Attributes:
        grades: Query id -> item id -> grade; above 0 is relevant, 0 and below is judged and not relevant.
        ignored: Query id -> item ids that are taken out of its ranking: junk, and the query itself under other ids.
        self_matches: Whether an item with the query's own id is left in its ranking; else it is taken out.

    Raises:
        DataError: a grade that is no finite number, or no query has a relevant item.

    Example:
        >>> qrels = Qrels({"q1": {"a": 2, "b": 1}, "q2": {"c": 1}}, ignored={"q1": frozenset({"d"})})
        >>> qrels.relevant("q1")
        {'a': 2, 'b': 1}
    """

    grades: Mapping[str, Mapping[str, int]]
    ignored: Mapping[str, frozenset[str]] = field(default_factory=dict)
    self_matches: bool = False

    def __post_init__(self) -> None:
        for query, items in self.grades.items():
            grades = items.values() if isinstance(items, Mapping) else [None]
            if not all(isinstance(grade, Real) and math.isfinite(grade) for grade in grades):
                raise DataError(f"judgements of query '{query}' are {items!r:.80}; legal: item id -> a finite number")
        if not any(grade > 0 for items in self.grades.values() for grade in items.values()):
            raise DataError("the judgements hold no relevant item; a grade above 0 is relevant")

    def relevant(self, query: str) -> dict[str, int]:
        """Item id -> grade of the relevant items of a query that count: neither ignored nor the query itself."""
        return {
            item: grade
            for item, grade in self.grades.get(query, {}).items()
            if grade > 0 and not self.leaves_out(query, item)
        }

    def leaves_out(self, query: str, item: str) -> bool:
        """Whether an item is taken out of a query's ranking."""
        return item in self.ignored.get(query, ()) or (item == query and not self.self_matches)
