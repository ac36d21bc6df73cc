"""The first ranked images of each query, exact, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET
from eval.scoring.retrieval_scores import places
from timm_gam.core import ALONE, World
from timm_gam.search import Distance, Vectors, fixed_point, nearest, resident, scoring_device, slices

_QUERIES = 4096  # searched at a time: what a search holds of each is far more than what is kept of it


def first_ranked(
    embeddings: Vectors,
    query: NDArray[np.int64],
    gallery: NDArray[np.int64],
    depth: int,
    distance: Distance = "cosine",
    *,
    device: str = "cpu",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    world: World = ALONE,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The exactly nearest gallery images of each query.

    `depth` are kept, fewer where the gallery has fewer; the rest is as `score_retrieval` takes it.

    Returns:
        (Q, K) int64 places in `gallery`, nearest first, and (Q, K) float32 cosine similarities or distances.
    """
    there = scoring_device(device)
    points = fixed_point(resident(embeddings, there, memory_budget)[0], distance, device=there)
    ranked, own = points.take(gallery), places(query, gallery)
    within = bool((own >= 0).any())
    width = min(depth, len(gallery) - within)
    rows = np.zeros((len(query), width), dtype=np.int64)
    scores = np.zeros((len(query), width), dtype=np.float32)
    share = world.share(len(query), _QUERIES)
    for some in slices(share.start, share.stop, _QUERIES):
        itself = own[some] if within else None
        found = nearest(points.take(query[some]), ranked, width, self_index=itself, device=there)
        rows[some], scores[some] = found.rows, points.in_units(found.scores)
    return world.sum(torch.from_numpy(rows)).numpy(), world.sum(torch.from_numpy(scores)).numpy()
