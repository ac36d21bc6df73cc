"""A ranking held against judgements: tied groups for our metrics, one fixed order for those of other libraries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import torch
from numpy.typing import NDArray

from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels
from eval.scoring.ranking import RelevantRanks
from eval.scoring.tie_groups import TieGroups
from timm_gam.core import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """P ranked rows of Q judged queries, best first within each query.

    Attributes:
        query: (P,) int64 ascending, in [0, Q): of judged queries with a relevant item, ranked or not.
        score: (P,) float64, descending within a query.
        gain: (P,) float64 grade of a relevant row, 0 of others.
        ideal: (Q, most relevant) float64 grades of each query's relevant items, descending, 0 where it has fewer.
        num_relevant: (Q,) int64, R of each query, ranked or not.
        ranked: (Q,) bool, whether the ranking has the query.
    """

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

    @property
    def opens(self) -> NDArray[np.bool_]:
        """(P,) whether a row is the first of its tied group."""
        opens = np.ones(len(self.query), dtype=np.bool_)
        opens[1:] = (self.query[1:] != self.query[:-1]) | (self.score[1:] != self.score[:-1])
        return opens

    def groups(self) -> TieGroups:
        """The tied groups that hold relevant rows."""
        opens = self.opens
        group = np.cumsum(opens) - 1
        above, tied = self.place[opens][group], np.bincount(group)[group]
        pairs = (torch.from_numpy(values[self.gain > 0]) for values in (self.query, above, tied))
        groups = TieGroups.of(RelevantRanks(torch.arange(len(self.ranked)), *pairs))
        return replace(groups, num_relevant=torch.from_numpy(self.num_relevant))  # the unranked too

    def group_gains(self) -> Floats:
        """(G,) summed gain of each group of `groups`."""
        sums: Floats = np.bincount(np.cumsum(self.opens) - 1, self.gain).astype(np.float64)
        return sums[sums > 0]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Judged:
        """Some of the rows, in another order within a query or in the same."""
        return replace(self, query=self.query[rows], score=self.score[rows], gain=self.gain[rows])

    def in_order(self, best: bool) -> Judged:
        """The same with every tie broken for the relevant items (best) or against them."""
        order = np.lexsort((-self.gain if best else self.gain, -self.score, self.query))
        return self.take(order).untied()

    def untied(self) -> Judged:
        """The same in the order of the rows, without ties."""
        return replace(self, score=-np.arange(len(self.query), dtype=np.float64))

    def completed(self) -> Judged:
        """With the relevant items that are not ranked following what is: the most a longer ranking could give."""
        query, gain = [self.query], [self.gain]
        found = np.bincount(self.query, weights=self.gain > 0, minlength=len(self.ranked))
        for number in np.flatnonzero(found < self.num_relevant).tolist():
            relevant = Counter(self.ideal[number, : self.num_relevant[number]].tolist())
            missing = list((relevant - Counter(self.gain[self.query == number].tolist())).elements())
            query.append(np.full(len(missing), number, dtype=np.int64))
            gain.append(np.array(missing))
        added = len(np.concatenate(query)) - len(self.query)
        below = np.nextafter(self.score.min(initial=0.0), -np.inf) - np.arange(added)
        whole = replace(
            self, query=np.concatenate(query), score=np.append(self.score, below), gain=np.concatenate(gain)
        )
        return whole.take(np.argsort(whole.query, kind="stable"))


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
    if not leave_out:
        qrels = Qrels(qrels.grades, self_matches=True)
    grades = {query: relevant for query in qrels.grades if (relevant := qrels.relevant(query))}
    number = {query: place for place, query in enumerate(grades)}
    of_ranking = np.array([number.get(query, -1) for query in ranking.queries], dtype=np.int64)
    if (of_ranking < 0).all():
        raise DataError(
            f"'{ranking.name}' ranks none of the {len(grades)} judged queries: it has '{ranking.queries[0]}', the "
            f"judgements have '{next(iter(grades), 'none')}'; give files of the same queries"
        )
    rows = np.flatnonzero((of_ranking[ranking.query] >= 0) & ~np.isnan(ranking.score))
    pairs = zip(ranking.query[rows].tolist(), ranking.item[rows].tolist(), strict=True)
    named = ((ranking.queries[query], ranking.items[item]) for query, item in pairs)
    gain = np.array([nan if qrels.leaves_out(*pair) else grades[pair[0]].get(pair[1], 0) for pair in named], float)
    rows, gain = rows[~np.isnan(gain)], gain[~np.isnan(gain)]
    query, item, score = of_ranking[ranking.query[rows]], ranking.item[rows], ranking.score[rows]
    names = np.unique(np.array(ranking.items), return_inverse=True)[1] if by_item else np.zeros(len(ranking.items), int)
    order = np.lexsort((-names[item], -score, query))
    # An item that is ranked twice counts where it stands best.
    first = np.unique((query * len(ranking.items) + item)[order], return_index=True)[1]
    kept = order[np.sort(first)]
    ideal = np.zeros((len(grades), max(len(items) for items in grades.values())))
    for place, items in enumerate(grades.values()):
        ideal[place, : len(items)] = sorted(items.values(), reverse=True)
    num_relevant = np.array([len(items) for items in grades.values()], dtype=np.int64)
    ranked = np.isin(np.arange(len(grades)), of_ranking)
    return Judged(query[kept], score[kept], gain[kept], ideal, num_relevant, ranked)
