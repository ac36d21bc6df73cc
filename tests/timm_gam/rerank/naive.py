"""The same methods as their papers write them: full float64 matrices, one query at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def nearest(similarities: Floats, k: int) -> NDArray[np.int64]:
    return np.argsort(-similarities, kind="stable")[:k]


def expanded(query: Floats, gallery: Floats, k: int, alpha: float) -> Floats:
    similarities = gallery @ query
    chosen = nearest(similarities, k)
    return unit(query + np.maximum(similarities[chosen], 0) ** alpha @ gallery[chosen])


def query_expansion(query: Floats, gallery: Floats, k: int, alpha: float) -> Floats:
    return gallery @ expanded(query, gallery, k, alpha)


def others(gallery: Floats, i: int) -> Floats:
    return np.delete(gallery, i, axis=0)


def database_augmentation(query: Floats, gallery: Floats, k: int, alpha: float) -> Floats:
    vectors = np.stack([expanded(gallery[i], others(gallery, i), k, alpha) for i in range(len(gallery))])
    return vectors @ expanded(query, gallery, k, alpha)


def affinity(gallery: Floats, k: int, gamma: float) -> Floats:
    similarities = gallery @ gallery.T
    np.fill_diagonal(similarities, -np.inf)
    directed = np.zeros_like(similarities)
    for i, row in enumerate(similarities):
        chosen = nearest(row, k)
        directed[i, chosen] = np.maximum(row[chosen], 0) ** gamma
    return (directed + directed.T) / 2


def diffusion(
    query: Floats, gallery: Floats, k: int, gamma: float, alpha: float, steps: int, mix: float, own: int | None = None
) -> Floats:
    """`own`: a row that stays in the graph but is no neighbour of the query (the transductive form)."""
    graph = affinity(gallery, k, gamma)
    scale = np.diag(graph.sum(axis=1) ** -0.5)
    transition = alpha * graph * scale.diagonal() * scale.diagonal()[:, None]
    similarities = gallery @ query
    if own is not None:
        similarities[own] = -np.inf
    full = gallery @ gallery.T
    np.fill_diagonal(full, -np.inf)
    if own is not None:
        full[:, own] = -np.inf
    last = np.sort(full, axis=1)[:, -k]
    start = np.zeros(len(gallery))
    chosen = nearest(similarities, k)
    start[chosen] += np.maximum(similarities[chosen], 0) ** gamma / 2
    lists_it = similarities >= last
    start[lists_it] += np.maximum(similarities[lists_it], 0) ** gamma / 2
    start = scale @ start
    walk, moved = start, start
    for _ in range(steps):
        moved = transition @ moved
        walk = walk + moved
    if own is not None:
        walk[own], similarities[own] = 0, 0
    return (1 - mix) * walk / walk.max() + mix * similarities


def k_reciprocal(query: Floats, gallery: Floats, k1: int, k2: int, mix: float) -> Floats:
    """As the authors' code goes about it, image by image over full matrices, with the query as the first image."""
    images = np.concatenate([query[None], gallery])
    count, distance = len(images), 1 - images @ images.T
    np.fill_diagonal(distance, -1)  # first on its own list
    ranks = np.argsort(distance, kind="stable", axis=1)
    distance = 1 - images @ images.T
    half = round(k1 / 2)

    def mutual(i: int, k: int) -> NDArray[np.int64]:
        forward = ranks[i, : k + 1]
        return forward[(ranks[forward, : k + 1] == i).any(axis=1)]

    encoded = np.zeros((count, count))
    for i in range(count):
        found = mutual(i, k1)
        wider = found
        for candidate in found:
            others_ = mutual(candidate, half)
            if len(np.intersect1d(others_, found)) > 2 / 3 * len(others_):
                wider = np.append(wider, others_)
        wider = np.unique(wider)
        weights = np.exp(-distance[i, wider])
        encoded[i, wider] = weights / weights.sum()
    averaged = np.stack([encoded[ranks[i, :k2]].mean(axis=0) for i in range(count)])
    shared = np.minimum(averaged[0], averaged).sum(axis=1)
    return ((1 - mix) * shared / (2 - shared) + mix * (1 - distance[0]))[1:]
