"""Re-rankings scored as any ranking: block by block, each block's scores a small matrix that is counted exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.labels import Labels
from eval.scoring.metrics import DEFAULT_KS, metric_names, query_metrics
from eval.scoring.near_duplicates import NearDuplicates, score_without_near
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET, rank_relevant
from eval.scoring.retrieval_scores import Intervals, RetrievalScores, averaged, checked_codes
from eval.scoring.statistics.intervals import Population
from timm_gam.core import ALONE, World
from timm_gam.rerank import Reranker
from timm_gam.search import Rows, Scorer, highest, slices


@dataclass(frozen=True)
class RerankedScores:
    """What a re-ranking measured, and the first images of each ranking.

    Attributes:
        scores: Metrics and averages.
        rows: (Q, K) int64 gallery rows, best first, of equal ones the lower row; the query itself is left out.
        values: (Q, K) float32, their scores.
        without_near: Metric name -> (Q,) float64 where near-duplicates of the query are left out of its ranking, NaN
            where nothing relevant is left then; None where they are not known.
    """

    scores: RetrievalScores
    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    without_near: dict[str, NDArray[np.float64]] | None = None


def score_reranking(
    reranker: Reranker,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    depth: int = 100,
    ks: Sequence[int] = DEFAULT_KS,
    intervals: Intervals = "auto",
    near: NearDuplicates | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    on_progress: Callable[[int], None] = lambda queries: None,
    world: World = ALONE,
) -> RerankedScores:
    """Score a re-ranking; ties are scores that are equal.

    Args:
        reranker: Of Q queries against G gallery images; `own` of it says which rows are left out.
        query_labels: (Q,) class of each query, of any comparable kind.
        gallery_labels: (G,) class of each gallery image, likewise.
        depth: First images to keep, fewer where the gallery has fewer.
        ks: Cutoffs, each >= 1.
        intervals: "none", or anything else for 95 % intervals for other queries: for other images or classes one would
            need what an image does to a re-ranking of the others, which is not known.
        near: Near-duplicates of the queries, to score rankings without them too. What is re-ranked has them still.
        memory_budget: Bytes for counting a block, beside what the re-ranking takes.
        on_progress: Called with the number of queries just scored.
        world: The processes that share the queries; each calls this alike and gets the result.

    Raises:
        DataError: a cutoff below 1, labels of another number or kind, or no query with a relevant image.

    >>> from timm_gam.rerank import QueryExpansion
    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> expanded = QueryExpansion(vectors, vectors, own=torch.arange(4), neighbours=1)
    >>> score_reranking(expanded, [0, 0, 1, 1], [0, 0, 1, 1]).scores.averages["map"].micro
    1.0
    """
    sizes = len(reranker.queries), len(reranker.gallery)
    labels, classes, gallery_classes = checked_codes(query_labels, gallery_labels, sizes, ks)
    own = reranker.own.cpu().numpy()
    width = min(depth, len(gallery_classes) - reranker.within)
    rows = np.zeros((len(labels), width), dtype=np.int64)
    values = np.zeros((len(labels), width), dtype=np.float32)
    metrics, without = ({name: np.zeros(len(labels)) for name in metric_names(ks)} for _ in range(2))
    share = world.share(len(labels), reranker.rows_at_once)
    for some in slices(share.start, share.stop, reranker.rows_at_once):
        block = _Block(reranker.block(some))
        ranks = rank_relevant(block, classes[some], gallery_classes, self_index=own[some], memory_budget=memory_budget)
        parts = [query_metrics(group, ks) for group in ranks]
        for name, column in metrics.items():
            column[some] = without[name][some] = np.concatenate([part[name] for part in parts])
        if near is not None and len(flagged := np.flatnonzero(near.counts[some])):
            there = some.start + flagged
            left = score_without_near(
                _Block(block.scores[torch.from_numpy(flagged)]),
                near,
                there,
                classes,
                gallery_classes,
                ks=ks,
                memory_budget=memory_budget,
            )
            for name, column in without.items():
                column[there] = left[name]
        first = highest(block, width, self_index=own[some])
        rows[some], values[some] = first.rows, first.scores
        on_progress(some.stop - some.start)
    per_query, left_out = (
        {name: world.sum(torch.from_numpy(column)).numpy() for name, column in each.items()}
        for each in ((metrics, without) if near is not None else (metrics, {}))
    )
    population: Population | None = None if intervals == "none" else "queries"
    scores = averaged(per_query, labels, classes, population, products=str(reranker.gallery.dtype)[6:])
    return RerankedScores(
        scores,
        world.sum(torch.from_numpy(rows)).numpy(),
        world.sum(torch.from_numpy(values)).numpy(),
        left_out or None,
    )


class _Block(Scorer):
    """The scores of some queries against all of the gallery, as they are."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__(*scores.shape, device=scores.device)
        self.scores = scores

    def block(self, rows: Rows, columns: Rows) -> Tensor:
        return self.scores[rows][:, columns].double()
