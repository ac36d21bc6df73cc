"""Embeddings -> scored retrieval: rankings, metrics and averages in one call over plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.scoring.intervals import Average, average
from eval.scoring.metrics import DEFAULT_KS, query_metrics
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET, rank_relevant
from timm_gam.core import ALONE, DataError, World
from timm_gam.search import Distance, fixed_point

__all__ = ["RetrievalScores", "score_retrieval"]


@dataclass(frozen=True)
class RetrievalScores:
    """What one retrieval run measured.

    Attributes:
        averages: Metric name -> Average over the scored queries.
        per_query: Metric name -> (Q,) float64; NaN for queries without relevant images.
        labels: (Q,) int64, class of each query.
        scored: (Q,) bool, False for queries without relevant images, which no average counts.
    """

    averages: dict[str, Average]
    per_query: dict[str, NDArray[np.float64]]
    labels: NDArray[np.int64]
    scored: NDArray[np.bool_]


def score_retrieval(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    query: NDArray[np.int64] | None = None,
    gallery: NDArray[np.int64] | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    distance: Distance = "cosine",
    replicates: int = 1000,
    seed: int = 0,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> RetrievalScores:
    """Score retrieval over embeddings: by default leave-one-out over all of them.

    Args:
        embeddings: (N, D) float, in memory or memory-mapped.
        labels: (N,) integer class of each row; rows are relevant to each other when these are equal.
        query: (Q,) rows that are queries; default all.
        gallery: (G,) distinct rows that are ranked; default all. A query among them is left out of its own ranking.
        ks: Cutoffs, each >= 1.
        distance: "cosine" (rows are L2-normalised) or "euclidean".
        replicates: Bootstrap replicates for the 95 % intervals; 0 for none.
        seed: Of the bootstrap.
        memory_budget: Bytes that ranking may use beyond the embeddings.
        on_progress: Called with the number of queries whose scores were just counted.
        world: The processes that share the work; each calls this alike, with equal arguments, and gets the result.

    Raises:
        EmbeddingError: embeddings that are not finite or not a matrix.
        DataError: a cutoff below 1, labels of another length, or no query with a relevant image.
    """
    if len(labels) != len(embeddings):
        raise DataError(f"{len(labels)} labels came for {len(embeddings)} embeddings; one each is needed")
    if not ks or min(ks) < 1:
        raise DataError(f"cutoffs K are {list(ks)}; each must be at least 1")
    everything = np.arange(len(embeddings), dtype=np.int64)
    query = everything if query is None else query
    gallery = everything if gallery is None else gallery
    points = fixed_point(embeddings, distance)
    classes = np.asarray(labels, dtype=np.int64)
    queries = points.take(query)
    ranks = rank_relevant(
        queries,
        queries if np.array_equal(query, gallery) else points.take(gallery),
        classes[query],
        classes[gallery],
        self_index=_places(query, gallery),
        memory_budget=memory_budget,
        on_progress=on_progress,
        world=world,
    )
    parts = [query_metrics(group, ks) for group in ranks]
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scored = np.isfinite(per_query["map"])
    if not scored.any():
        raise DataError(
            f"none of {len(query)} queries has a relevant image in its gallery; every class needs two images, or "
            "queries and gallery must share classes"
        )
    averages = average(
        {name: values[scored] for name, values in per_query.items()},
        classes[query][scored],
        replicates=replicates,
        seed=seed,
    )
    return RetrievalScores(averages, per_query, classes[query], scored)


def _places(query: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(gallery, kind="stable")
    place = np.minimum(np.searchsorted(gallery[order], query), len(gallery) - 1)
    return np.where(gallery[order[place]] == query, order[place], -1)
