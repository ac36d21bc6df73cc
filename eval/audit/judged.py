"""A ranking held against judgements: tied groups for our metrics, one fixed order for those of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels
from eval.scoring.tie_groups import TieGroups
from timm_gam.core import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """P ranked rows of Q judged queries, best first within each query.

    Attributes:
        queries: Q ids, all with a relevant item, whether the ranking has them or not.
        query: (P,) int64 ascending index into `queries`.
        score: (P,) float64, descending within a query.
        gain: (P,) float64 grade of a relevant row, 0 of others.
        ideal: (Q, most relevant) float64 grades of each query's relevant items, descending, 0 where it has fewer.
        num_relevant: (Q,) int64, R of each query, ranked or not.
        ranked: (Q,) bool, whether the ranking has the query.
    """

    queries: tuple[str, ...]
    query: NDArray[np.int64]
    score: Floats
    gain: Floats
    ideal: Floats
    num_relevant: NDArray[np.int64]
    ranked: NDArray[np.bool_]

    @property
    def place(self) -> NDArray[np.int64]:
        """(P,) rank of each row within its query, from 0."""
        return np.arange(len(self.query)) - np.searchsorted(self.query, self.query)

    def groups(self) -> TieGroups:
        """The tied groups that hold relevant rows."""
        opens = np.ones(len(self.query), dtype=np.bool_)
        opens[1:] = (self.query[1:] != self.query[:-1]) | (self.score[1:] != self.score[:-1])
        head = np.flatnonzero(opens)
        relevant = np.add.reduceat(self.gain > 0, head, dtype=np.int64) if len(head) else np.zeros(0, dtype=np.int64)
        size = np.diff(np.append(head, len(self.query)))
        total = np.cumsum(relevant) - relevant
        row = self.query[head]
        before = total - total[np.searchsorted(row, row)]
        held = relevant > 0
        start = self.place[head]
        per_group = (values[held] for values in (row, start, size, relevant, before))
        return TieGroups(*map(torch.from_numpy, (self.num_relevant, *per_group)))

    def group_gains(self) -> Floats:
        """(G,) summed gain of each group of `groups`."""
        opens = np.ones(len(self.query), dtype=np.bool_)
        opens[1:] = (self.query[1:] != self.query[:-1]) | (self.score[1:] != self.score[:-1])
        sums = np.add.reduceat(self.gain, np.flatnonzero(opens)) if len(self.query) else np.zeros(0)
        gains: Floats = sums[sums > 0]
        return gains

    def in_order(self, best: bool) -> Judged:
        """The same with every tie broken for the relevant items (best) or against them."""
        order = np.lexsort((-self.gain if best else self.gain, -self.score, self.query))
        distinct = -np.arange(len(order), dtype=np.float64)
        return Judged(
            self.queries, self.query[order], distinct, self.gain[order], self.ideal, self.num_relevant, self.ranked
        )

    def completed(self) -> Judged:
        """With the relevant items that are not ranked following what is: the most a longer ranking could give."""
        query, gain = [self.query], [self.gain]
        found = np.bincount(self.query, weights=self.gain > 0, minlength=len(self.queries)).astype(np.int64)
        for number in np.flatnonzero(found < self.num_relevant).tolist():
            missing = self.ideal[number, : self.num_relevant[number]].tolist()
            for grade in self.gain[(self.query == number) & (self.gain > 0)].tolist():
                missing.remove(grade)
            query.append(np.full(len(missing), number, dtype=np.int64))
            gain.append(np.array(missing))
        queries, gains = np.concatenate(query), np.concatenate(gain)
        score = np.concatenate([self.score, np.full(len(queries) - len(self.query), -np.inf)])
        score[len(self.query) :] = np.nextafter(self.score.min(), -np.inf) - np.arange(len(score) - len(self.score))
        order = np.lexsort((-score, queries))
        return Judged(
            self.queries, queries[order], score[order], gains[order], self.ideal, self.num_relevant, self.ranked
        )

    def cut(self, depth: int) -> Judged:
        """The first `depth` rows of each query."""
        kept = self.place < depth
        return Judged(
            self.queries,
            self.query[kept],
            self.score[kept],
            self.gain[kept],
            self.ideal,
            self.num_relevant,
            self.ranked,
        )


def judge(ranking: Ranking, qrels: Qrels, *, leave_out: bool = True, by_item: bool = False) -> Judged:
    """Hold a ranking against judgements.

    Args:
        ranking: From `read_ranking`.
        qrels: From `read_qrels`.
        leave_out: Take out ignored items and self-matches, as `qrels` says; False keeps all that is ranked.
        by_item: Break ties by item id, descending, as trec_eval does; else equal scores stay in the order of the file.

    Raises:
        DataError: no query of the judgements is ranked.

    Example:
        >>> run = Ranking.from_mapping("run", {"q": {"a": 2.0, "b": 1.0}})
        >>> judge(run, Qrels({"q": {"b": 1}})).place.tolist()
        [0, 1]
    """
    keep: Callable[[str], dict[str, int]] = qrels.relevant if leave_out else lambda query: _all_relevant(qrels, query)
    grades = {query: relevant for query in qrels.grades if (relevant := keep(query))}
    if not set(grades).intersection(ranking.queries):
        raise DataError(
            f"'{ranking.name}' ranks none of the {len(grades)} judged queries: it has '{ranking.queries[0]}', the "
            f"judgements have '{next(iter(grades), 'none')}'; give files of the same queries"
        )
    queries = tuple(grades)
    place = {query: number for number, query in enumerate(queries)}
    of_ranking = np.array([place.get(query, -1) for query in ranking.queries], dtype=np.int64)
    query = of_ranking[ranking.query]
    kept = (query >= 0) & ~np.isnan(ranking.score)
    if leave_out:
        kept &= ~_pairs_in(ranking, _left_out(ranking, qrels))
    query, item, score = query[kept], ranking.item[kept], ranking.score[kept]
    names = np.unique(np.array(ranking.items), return_inverse=True)[1] if by_item else np.zeros(len(ranking.items), int)
    order = np.lexsort((-names[item], -score, query))
    query, item, score = query[order], item[order], score[order]
    first = _first_of_pair(query, item, len(ranking.items))  # an item that is ranked twice counts where it stands best
    query, item, score = query[first], item[first], score[first]
    gain = _gains(ranking, grades, queries, query, item)
    most = max(len(items) for items in grades.values())
    ideal = np.zeros((len(queries), most))
    for number, items in enumerate(grades.values()):
        ideal[number, : len(items)] = sorted(items.values(), reverse=True)
    num_relevant = np.array([len(items) for items in grades.values()], dtype=np.int64)
    ranked = np.isin(np.arange(len(queries)), of_ranking)
    return Judged(queries, query, score, gain, ideal, num_relevant, ranked)


def _all_relevant(qrels: Qrels, query: str) -> dict[str, int]:
    return {item: grade for item, grade in qrels.grades.get(query, {}).items() if grade > 0}


def _left_out(ranking: Ranking, qrels: Qrels) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {query: set(items) for query, items in qrels.ignored.items()}
    if not qrels.self_matches:
        for query in ranking.queries:
            out.setdefault(query, set()).add(query)
    return out


def _pairs_in(ranking: Ranking, pairs: dict[str, set[str]]) -> NDArray[np.bool_]:
    """(P,) which rows are one of the (query, item) pairs."""
    query = {name: code for code, name in enumerate(ranking.queries)}
    item = {name: code for code, name in enumerate(ranking.items)}
    wanted = [
        query[name] * len(item) + item[one]
        for name, items in pairs.items()
        if name in query
        for one in items
        if one in item
    ]
    return np.isin(ranking.query * len(item) + ranking.item, np.array(wanted, dtype=np.int64))


def _first_of_pair(query: NDArray[np.int64], item: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    return np.sort(np.unique(query * items + item, return_index=True)[1])


def _gains(
    ranking: Ranking,
    grades: dict[str, dict[str, int]],
    queries: tuple[str, ...],
    query: NDArray[np.int64],
    item: NDArray[np.int64],
) -> Floats:
    code = {name: number for number, name in enumerate(ranking.items)}
    keys, values = [], []
    for number, name in enumerate(queries):
        for relevant, grade in grades[name].items():
            if relevant in code:
                keys.append(number * len(code) + code[relevant])
                values.append(float(grade))
    if not keys:
        return np.zeros(len(query))
    by_key = np.argsort(np.array(keys))
    sorted_keys, sorted_values = np.array(keys)[by_key], np.array(values)[by_key]
    own = query * len(code) + item
    at = np.minimum(np.searchsorted(sorted_keys, own), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == own, sorted_values[at], 0.0)
