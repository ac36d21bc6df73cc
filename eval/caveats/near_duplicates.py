"""What near-duplicates of queries in their gallery do to the metrics of a result, as its record says it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from eval.results.facts import Means, NearDuplicates, NearPair
from eval.scoring import near_duplicates as finding
from eval.scoring.near_duplicates import score_without_near
from eval.scoring.retrieval_scores import places
from eval.scoring.statistics.intervals import average
from timm_gam.core import World
from timm_gam.data import Protocol
from timm_gam.images import NEAR
from timm_gam.models import weights_digest
from timm_gam.search import ExactScorer, FixedPoint, scoring_device

_last: dict[str, finding.NearDuplicates] = {}
"""What was found last, by the pictures it was found of: models are compared on the same ones."""


class NearPictures:
    """Near-duplicates of each query in its gallery, and what any ranking of them is without.

    Args:
        signatures: (N, 256) int8 of the images.
        protocol: Rows of them.
        splits: (N,) int64 the split each was published in, as a number; None without splits.
        device: Where to compare.
    """

    def __init__(
        self, signatures: NDArray[np.int8], protocol: Protocol, splits: NDArray[np.int64] | None, device: str
    ) -> None:
        query, gallery = protocol.query, protocol.gallery
        self.protocol, self.device = protocol, scoring_device(device)
        apart = None if splits is None else (splits[query], splits[gallery])
        given = signatures[query], signatures[gallery], places(query, gallery)
        key = weights_digest({str(i): torch.from_numpy(each) for i, each in enumerate((*given, *(apart or ())))})
        if key not in _last:
            found = finding.find_near_duplicates(*given, apart, device=self.device)
            _last.clear()
            _last[key] = found
        self.found = _last[key]

    def scored_without(
        self,
        queries: FixedPoint,
        ranked: FixedPoint,
        labels: tuple[NDArray[np.int64], NDArray[np.int64]],
        per_query: dict[str, NDArray[np.float64]],
        *,
        ks: Sequence[int],
        memory_budget: int,
        world: World,
    ) -> dict[str, NDArray[np.float64]]:
        """Metrics of the exact ranking of vectors; of queries that have near-duplicates, without these.

        `labels` are those of queries and gallery, `per_query` the (Q,) metrics with near-duplicates.
        """
        merged = {name: values.copy() for name, values in per_query.items()}
        flagged = np.flatnonzero(self.found.counts)
        if not len(flagged):
            return merged
        scorer = ExactScorer(queries.take(flagged), ranked, device=self.device)
        without = score_without_near(
            scorer, self.found, flagged, *labels, ks=ks, memory_budget=memory_budget, world=world
        )
        for name, values in without.items():
            merged[name][flagged] = values
        return merged

    def record(
        self, ids: Sequence[str], labels: NDArray[np.int64], without: dict[str, NDArray[np.float64]]
    ) -> NearDuplicates:
        """As a result says it, of `scored_without` for N images."""
        found, query, gallery = self.found, self.protocol.query, self.protocol.gallery
        scored = np.isfinite(without["map"])
        averages = average(without, labels[query], population=None) if scored.any() else {}
        return NearDuplicates(
            likeness=NEAR,
            queries=int((found.counts > 0).sum()),
            pairs=int(found.counts.sum()),
            across_splits=None if found.crossing is None else int(found.crossing.sum()),
            queries_scored=int(scored.sum()),
            metrics={name: Means(micro=one.micro, macro=one.macro) for name, one in averages.items()},
            examples=[
                NearPair(
                    query=ids[query[left]],
                    match=ids[gallery[right]],
                    likeness=round(min(value, 1.0), 4),
                    across_splits=apart,
                )
                for left, right, value, apart in found.examples
            ],
        )
