"""Our metrics of a judged ranking, ties by expectation, and the range they take over all orders of equal scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from eval.audit.judged import Judged
from eval.scoring.metrics import AT_K, WHOLE, average_precision_at_k, graded_ndcg_at_k

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A metric averaged over queries.

    Attributes:
        mean: Expectation over all orders of equal scores, in [0, 1].
        least: With every tie broken against the relevant items.
        most: With every tie broken for them.
    """

    mean: float
    least: float
    most: float

    @property
    def range(self) -> float:
        """How far the order of ties can move it."""
        return self.most - self.least


def per_query(judged: Judged, ks: Sequence[int]) -> dict[str, Floats]:
    """Metric name -> (Q,) value of each judged query, 0 where it is not ranked.

    "map" divides by all relevant items, ranked or not; "map@K" is the same of the ranking cut at K.
    """
    groups = judged.groups()
    gains, ideal = torch.from_numpy(judged.group_gains()), torch.from_numpy(judged.ideal)
    graded = partial(graded_ndcg_at_k, groups, gains, ideal)
    at_k = AT_K | {"ndcg": lambda groups, k: graded(k), "map": average_precision_at_k}
    found = {f"{name}@{k}": metric(groups, k) for k in ks for name, metric in at_k.items()}
    found |= {name: metric(groups) for name, metric in WHOLE.items()}
    return {name: values.numpy() for name, values in found.items()}


def measure(judged: Judged, ks: Sequence[int]) -> dict[str, Measure]:
    """Metric name -> mean over the judged queries, and its range over the orders of equal scores.

    Every metric grows as relevant items move up, so its extremes are the two orders that favour them least and most.

    Example:
        >>> from eval.audit.judged import judge
        >>> from eval.audit.ranking import Ranking
        >>> from eval.scoring.qrels import Qrels
        >>> tie = judge(Ranking.from_mapping("run", {"q": {"a": 1.0, "b": 1.0}}), Qrels({"q": {"b": 1}}))
        >>> measure(tie, ks=[1])["precision@1"]
        Measure(mean=0.5, least=0.0, most=1.0)
    """
    mean, least, most = (
        {name: float(np.mean(values)) for name, values in per_query(one, ks).items()}
        for one in (judged, judged.in_order(best=False), judged.in_order(best=True))
    )
    return {name: Measure(mean[name], least[name], most[name]) for name in mean}
