"""What near-duplicates of queries in their gallery do to the metrics of a result, as its record says it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.results.facts import Means, NearDuplicates, NearPair
from eval.scoring.intervals import class_means
from eval.scoring.near_duplicates import WithoutNear, find_near_duplicates, score_without_near
from eval.scoring.retrieval_scores import places
from timm_gam.core import World
from timm_gam.data import Protocol
from timm_gam.images import NEAR
from timm_gam.search import Distance, ExactScorer, Vectors, fixed_point, resident, scoring_device


def near_duplicates(
    vectors: Vectors,
    signatures: NDArray[np.int8],
    ids: Sequence[str],
    labels: NDArray[np.int64],
    protocol: Protocol,
    per_query: dict[str, NDArray[np.float64]],
    *,
    splits: NDArray[np.int64] | None,
    ks: Sequence[int],
    distance: Distance,
    memory_budget: int,
    device: str,
    world: World,
) -> NearDuplicates:
    """Find the near-duplicates of each query, and score those that have any without them.

    Args:
        vectors: (N, D) embeddings.
        signatures: (N, 256) int8 of the same images.
        ids: N image ids.
        labels: (N,) int64.
        protocol: Rows of `vectors`.
        per_query: Metric name -> (Q,) with near-duplicates.
        splits: (N,) int64 the split each was published in, as a number; None without splits.
        ks: Cutoffs.
        distance: Between embeddings.
        memory_budget: Bytes for ranking.
        device: Where to compare and rank.
        world: The processes that share the work.
    """
    query, gallery = protocol.query, protocol.gallery
    place = scoring_device(device)
    own = places(query, gallery)
    found = find_near_duplicates(
        signatures[query],
        signatures[gallery],
        own,
        None if splits is None else (splits[query], splits[gallery]),
        device=place,
    )
    merged = {name: values.copy() for name, values in per_query.items()}
    flagged = np.flatnonzero(found.counts)
    if len(flagged):
        vectors, budget = resident(vectors, place, memory_budget)
        points = fixed_point(vectors, distance, device=place)
        scorer = ExactScorer(points.take(query[flagged]), points.take(gallery), device=place)
        without = score_without_near(
            WithoutNear(scorer, signatures[query[flagged]], signatures[gallery]),
            labels[query[flagged]],
            labels[gallery],
            own[flagged],
            found.counts[flagged],
            ks=ks,
            memory_budget=budget,
            world=world,
        )
        for name, values in without.items():
            merged[name][flagged] = values
    scored = np.isfinite(merged["map"])
    return NearDuplicates(
        likeness=NEAR,
        queries=len(flagged),
        pairs=int(found.counts.sum()),
        across_splits=None if found.crossing is None else int(found.crossing.sum()),
        queries_scored=int(scored.sum()),
        metrics=_means({name: values[scored] for name, values in merged.items()}, labels[query[scored]]),
        examples=[
            NearPair(
                query=ids[query[left]],
                match=ids[gallery[right]],
                likeness=round(min(value, 1.0), 4),
                across_splits=splits is not None and bool(splits[query[left]] != splits[gallery[right]]),
            )
            for left, right, value in found.examples
        ],
    )


def _means(values: dict[str, NDArray[np.float64]], labels: NDArray[np.int64]) -> dict[str, Means]:
    if not len(labels):
        return {}
    classes = [means for _, _, means in class_means(values, labels)]
    return {
        name: Means(micro=float(column.mean()), macro=float(np.mean([means[name] for means in classes])))
        for name, column in values.items()
    }
