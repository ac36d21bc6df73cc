"""Embeddings, or any scorer -> scored retrieval: rankings, metrics and averages in one call over plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from eval.scoring.labels import Labels, class_codes
from eval.scoring.metrics import DEFAULT_KS, metric_names, query_metrics
from eval.scoring.ranking import AHEAD, DEFAULT_MEMORY_BUDGET, rank_relevant
from eval.scoring.statistics.influence import Influence, InfluenceCounter
from eval.scoring.statistics.intervals import Average, Population, average
from timm_gam.core import ALONE, DataError, World
from timm_gam.search import (
    Distance,
    ExactScorer,
    Scorer,
    Vectors,
    as_vectors,
    fixed_point,
    in_background,
    resident,
    scoring_device,
)

Intervals = Literal["auto", "queries", "images", "classes", "none"]
"""What intervals are for: other queries, images or classes; "auto": images where every image is a query of the others,
else queries, as the gallery is fixed; or no intervals. See `eval.scoring.statistics.intervals`."""

RowChoice = Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | torch.Tensor
"""Numbers of rows, or a mask of all of them."""


@dataclass(frozen=True)
class RetrievalScores:
    """What one retrieval run measured.

    Attributes:
        averages: Metric name -> Average over the scored queries.
        per_query: Metric name -> (Q,) float64; NaN for queries without relevant images.
        labels: (Q,) class of each query, as given.
        scored: (Q,) bool, False for queries without relevant images, which no average counts.
        products: How scores were computed, such as "float64"; all ways give the same digits.
        population: What the intervals are for; None where there are none.
        influence: What gallery images do to the averages, where the population needs it.
    """

    averages: dict[str, Average]
    per_query: dict[str, NDArray[np.float64]]
    labels: NDArray[Any]
    scored: NDArray[np.bool_]
    products: str = ""
    population: Population | None = None
    influence: Influence | None = None


def score_retrieval(
    embeddings: Vectors | Sequence[Sequence[float]],
    labels: Labels,
    *,
    query: RowChoice | None = None,
    gallery: RowChoice | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    distance: Distance = "cosine",
    intervals: Intervals = "auto",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    device: torch.device | str | None = None,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> RetrievalScores:
    """Score retrieval over embeddings: by default leave-one-out over all of them.

    Args:
        embeddings: (N, D) numbers: NumPy array, memory map, tensor on any device, or lists.
        labels: (N,) class of each row: integers, floats, texts, as array, tensor or list; rows are relevant to each
            other when these are equal.
        query: (Q,) rows that are queries, or an (N,) mask of them; default all.
        gallery: (G,) distinct rows that are ranked, or a mask; default all. A query among them is left out of its own
            ranking.
        ks: Cutoffs, each >= 1.
        distance: "cosine" (rows are L2-normalised) or "euclidean".
        intervals: Population of the 95 % intervals, "auto" by protocol, or "none".
        memory_budget: Bytes that ranking may use beyond the embeddings.
        device: Where to rank, with the same numbers everywhere; default where the embeddings are. Those that are
            elsewhere are copied there where they fit half of the budget, and moved block by block where not.
        on_progress: Called with the number of queries whose scores were just counted.
        world: The processes that share the work; each calls this alike, with equal arguments, and gets the result.

    Raises:
        EmbeddingError: embeddings that are not finite or not a matrix.
        DataError: a cutoff below 1, an illegal row, distance or population, labels of another number or kind, or no
            query with a relevant image.

    >>> scores = score_retrieval([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"])
    >>> scores.averages["map"].micro
    1.0
    """
    vectors = as_vectors(embeddings)
    if len(labels) != len(vectors):
        raise DataError(f"{len(labels)} labels came for {len(vectors)} embeddings; one each is needed")
    given = class_codes(labels)[0]
    query, gallery = chosen_rows(query, len(vectors), "query"), chosen_rows(gallery, len(vectors), "gallery")
    place = scoring_device(device or (vectors.device if isinstance(vectors, torch.Tensor) else "cpu"))
    vectors, memory_budget = resident(vectors, place, memory_budget)
    points = fixed_point(vectors, distance, device=place)
    queries = points.take(query)
    scorer = ExactScorer(queries, None if np.array_equal(query, gallery) else points.take(gallery), device=place)
    return score_rankings(
        scorer,
        given[query],
        given[gallery],
        self_index=places(query, gallery),
        ks=ks,
        intervals=intervals,
        memory_budget=memory_budget,
        on_progress=on_progress,
        world=world,
    )


def score_rankings(
    scorer: Scorer,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    self_index: NDArray[np.int64] | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    intervals: Intervals = "auto",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> RetrievalScores:
    """Score the rankings that any scorer gives; ties are scores that are equal.

    Args:
        scorer: Scores of Q queries against G gallery images.
        query_labels: (Q,) class of each query, of any comparable kind.
        gallery_labels: (G,) class of each gallery image, likewise.
        self_index: (Q,) gallery row that is the query itself and is left out, -1 for none; default none.
        ks: As for `score_retrieval`, like all that follow.
        intervals: Population of the 95 % intervals.
        memory_budget: Bytes that ranking may use, the scorer's blocks included.
        on_progress: Called with the number of queries whose scores were just counted.
        world: The processes that share the work.

    Raises:
        DataError: as `score_retrieval`.

    >>> from timm_gam.search import ExactScorer, fixed_point
    >>> points, labels = fixed_point(np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]), ["cat", "cat", "dog", "dog"]
    >>> scores = score_rankings(ExactScorer(points, points), labels, labels, self_index=np.arange(4))
    >>> scores.averages["map"].micro
    1.0
    """
    sizes = scorer.queries, scorer.gallery
    labels, classes, gallery_classes = checked_codes(query_labels, gallery_labels, sizes, ks)
    itself = np.full(len(classes), -1, dtype=np.int64) if self_index is None else self_index
    population = _population(intervals, itself, scorer)
    counter = None
    scored = np.bincount(gallery_classes, minlength=int(classes.max(initial=0)) + 1)[classes] > (itself >= 0)
    if population in ("images", "classes") and scored.any():
        counter = InfluenceCounter(scorer, classes, gallery_classes, itself, scored, metric_names(ks))
    parts = []
    ranks = rank_relevant(
        scorer,
        classes,
        gallery_classes,
        self_index=self_index,
        memory_budget=memory_budget,
        on_progress=on_progress,
        world=world,
    )
    measured = in_background(partial(query_metrics, ks=ks), ranks, AHEAD.get(scorer.device.type, 0))
    for number, (group, metrics) in enumerate(measured):
        parts.append(metrics)
        if counter is not None and number % world.size == world.rank:
            counter.add(group)
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    influence = counter.result(world) if counter is not None else None
    return averaged(per_query, labels, classes, population, influence, products=scorer.products)


def averaged(
    per_query: dict[str, NDArray[np.float64]],
    labels: NDArray[Any],
    classes: NDArray[np.int64],
    population: Population | None,
    influence: Influence | None = None,
    *,
    products: str,
) -> RetrievalScores:
    """Scores of metrics of (Q,) queries with labels and the codes of these."""
    scored = np.isfinite(per_query["map"])
    if not scored.any():
        raise DataError(
            f"none of {len(labels)} queries has a relevant image in its gallery; every class needs two images, or "
            "queries and gallery must share classes"
        )
    averages = average(per_query, classes, population=population, influence=influence)
    return RetrievalScores(averages, per_query, labels, scored, products, population, influence)


def _population(intervals: Intervals, self_index: NDArray[np.int64], scorer: Scorer) -> Population | None:
    if intervals not in (legal := get_args(Intervals)):
        raise DataError(f"intervals are for '{intervals}'; legal: {', '.join(legal)}")
    if intervals == "none":
        return None
    if intervals != "auto":
        return intervals
    return "images" if len(self_index) == scorer.gallery and bool((self_index >= 0).all()) else "queries"


def checked_codes(
    query_labels: Labels, gallery_labels: Labels, sizes: tuple[int, int], ks: Sequence[int]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The queries' labels as an array, and codes of both that are equal where labels are.

    Raises:
        DataError: a cutoff that is no whole number from 1 to 10,000,000, no query or gallery image at all, or labels of
            another number than queries and gallery (`sizes`), or of other kinds.
    """
    whole = all(isinstance(k, int | np.integer) and not isinstance(k, bool) and 1 <= k <= 10**7 for k in ks)
    if not len(ks) or not whole:
        raise DataError(f"cutoffs K are {list(ks)}; each must be a whole number from 1 to 10,000,000")
    if not all(sizes):
        raise DataError(f"{sizes[0]} queries and {sizes[1]} gallery images came; at least one each is needed")
    if (len(query_labels), len(gallery_labels)) != sizes:
        raise DataError(
            f"{len(query_labels)} and {len(gallery_labels)} labels came for {sizes[0]} queries and "
            f"{sizes[1]} gallery images; one each is needed"
        )
    labels, theirs = class_codes(query_labels)[0], class_codes(gallery_labels)[0]
    alike = labels.dtype.kind == theirs.dtype.kind  # else NumPy would make 1 and "1" equal, or 2^53 and 2^53 + 1
    codes = class_codes(np.concatenate([labels, theirs]) if alike else [*labels.tolist(), *theirs.tolist()])[1]
    return labels, codes[: len(labels)], codes[len(labels) :]


def chosen_rows(rows: RowChoice | None, count: int, what: Literal["query", "gallery"]) -> NDArray[np.int64]:
    """Numbers of the rows that someone chose of `count`, all by default; those of a gallery are distinct.

    Raises:
        DataError: neither whole numbers from 0 to count - 1 nor a mask of `count`, or none, or one twice in a gallery.

    >>> chosen_rows([False, True, True], 3, "query").tolist()
    [1, 2]
    """
    if not count:
        raise DataError("no embeddings came; at least one is needed")
    chosen = np.asarray(range(count) if rows is None else rows.cpu() if isinstance(rows, torch.Tensor) else rows)
    legal = f"legal: at least one whole number from 0 to {count - 1}, or a mask of {count}"
    if chosen.shape == (count,) and chosen.dtype == bool:
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise DataError(f"{what} rows are {chosen.dtype} of shape {chosen.shape}; {legal}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise DataError(f"{what} rows are from {chosen.min()} to {chosen.max()}; {legal}")
    chosen = chosen.astype(np.int64)
    if what == "gallery" and len(twice := np.flatnonzero(np.bincount(chosen) > 1)):
        raise DataError(f"gallery row {twice[0]} came more than once; name each row that is ranked once")
    return chosen


def places(query: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q,) where in (G,) distinct gallery rows each query row stands, -1 for nowhere."""
    order = np.argsort(gallery, kind="stable")
    place = np.minimum(np.searchsorted(gallery[order], query), len(gallery) - 1)
    return np.where(gallery[order[place]] == query, order[place], -1)
