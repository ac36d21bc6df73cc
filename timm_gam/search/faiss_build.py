"""Building an approximate index in bounded memory, and which kind suits how many vectors."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, EmbeddingError
from timm_gam.search.blocks import slices
from timm_gam.search.faiss_index import (
    ROWS_AT_A_TIME,
    ApproximateIndex,
    IndexFacts,
    import_faiss,
    prepared,
    prepared_blocks,
)
from timm_gam.search.integer_vectors import Distance

_TRAINING_ROWS = 262144
_MOST_CODED = 512  # dimensions
_LARGEST_GRAPH = 2_000_000  # vectors; it links them one by one
_MOST_CLUSTERS = 8192  # k-means of more takes longer than they save, until a gallery has tens of millions


def default_factories(count: int, dim: int) -> tuple[str, ...]:
    """The FAISS factory strings worth trying on `count` vectors of `dim` dimensions, the usual one first.

    Up to 20,000 vectors: all of them, as an index gains nothing. Above: clusters, whose members are scanned as codes of
    4 bits a dimension that fit into registers, and the best of them scored again in full. The random rotation gives
    every dimension the same share of the variance, and so the codes the same error; beyond 512 dimensions, where the
    sums of codes become coarse, a PCA comes with it. To 2 million also a graph, which some data suit better: of two
    sets of a million real vectors each was several times as fast as the other on one (docs/SCALE.md).
    """
    if count <= 20_000:
        return ("Flat",)
    root = np.sqrt(count)
    clusters = 2 ** round(np.log2(max(min(8 * root, _MOST_CLUSTERS), 2 * root)))
    coded = min(dim, _MOST_CODED)
    rotation = f"RR{dim}" if coded == dim else f"PCAR{coded}"
    codes = f"{rotation},IVF{clusters},PQ{coded}x4fs,RFlat"
    return (codes, "HNSW32") if count <= _LARGEST_GRAPH else (codes,)


def build_index(
    gallery: NDArray[np.floating],
    factory: str | None = None,
    *,
    distance: Distance = "cosine",
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> ApproximateIndex:
    """Build an index, in memory for the index itself, the training sample and one block of rows.

    Args:
        gallery: (N, D) float, in memory or memory-mapped.
        factory: A FAISS factory string; default the first of `default_factories`.
        distance: "cosine" or "euclidean".
        seed: Of the choice of the rows that clusters and codes are learned from.
        on_progress: Called with the number of rows just added.

    Raises:
        EmbeddingError: not a matrix, or not finite.
        DataError: a factory string that FAISS cannot make of these vectors.
    """
    faiss = import_faiss()
    if gallery.ndim != 2 or 0 in gallery.shape:
        raise EmbeddingError(f"embeddings have shape {gallery.shape}; a matrix (N, D) with N, D >= 1 is needed")
    count, dim = gallery.shape
    factory = factory or default_factories(count, dim)[0]
    if re.search(r"HNSW0*[01](?!\d)", factory):  # FAISS would end the process
        raise DataError(f"'{factory}' is a graph of fewer than 2 links a vector; legal: HNSW2 and more, such as HNSW32")
    began = time.perf_counter()
    digest = hashlib.sha256()
    try:
        by_product = distance == "cosine" and any(
            not gallery[rows].any(axis=1).all() for rows in slices(0, count, ROWS_AT_A_TIME)
        )
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT if by_product else faiss.METRIC_L2)
        if (clustered := faiss.try_extract_index_ivf(index)) is not None:
            clustered.cp.min_points_per_centroid = 1  # so that it does not print a warning where the sample is small
        if not index.is_trained:
            sample = np.random.default_rng(seed).choice(count, size=min(count, _TRAINING_ROWS), replace=False)
            index.train(prepared(gallery[np.sort(sample)], distance))
        for block in prepared_blocks(gallery, distance):
            digest.update(block.data)
            index.add(block)
            on_progress(len(block))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("Error: ")[-1].split(" at /project/")[-1]
        raise DataError(
            f"FAISS cannot build '{factory}' of {count} vectors of {dim} dimensions: {reason}; "
            f"a string that fits: {default_factories(count, dim)[0]}"
        ) from error
    facts = IndexFacts(
        factory=factory,
        distance=distance,
        dim=dim,
        count=count,
        gallery_sha256=digest.hexdigest(),
        build_seconds=time.perf_counter() - began,
        bytes=_size(index),
        parameters="",
        versions={name: importlib.metadata.version(name) for name in ("faiss-cpu", "timm-gam")},
    )
    return ApproximateIndex(index, facts)


def _size(index: Any) -> int:
    faiss = import_faiss()
    sizes: list[int] = []

    def count(block: bytes) -> int:
        sizes.append(len(block))
        return len(block)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))  # counted, not kept: an index may fill half of memory
    return sum(sizes)
