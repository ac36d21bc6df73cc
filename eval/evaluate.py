"""One model on one image set under one protocol: embeddings, scores and everything needed to repeat them."""

from __future__ import annotations

import json
import time

import numpy as np
from numpy.typing import NDArray

from eval.results.result import RetrievalResult, Settings
from eval.scoring.retrieval_scores import score_retrieval
from timm_gam.core import ALONE, ProgressBar, World, no_progress
from timm_gam.data import ImageSet, Protocol
from timm_gam.embed import (
    Embedder,
    EmbeddingCache,
    Embeddings,
    collect_embeddings,
)
from timm_gam.images import Preprocessing, data_fingerprint
from timm_gam.models import LoadedModel

__all__ = ["evaluate_model"]


def evaluate_model(
    loaded: LoadedModel,
    images: ImageSet,
    protocol: Protocol,
    *,
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
    progress: ProgressBar = no_progress,
    world: World = ALONE,
) -> RetrievalResult:
    """Embed the protocol's images with a model and score their retrieval.

    Args:
        loaded: From `eval.load_model`.
        images: The image set.
        protocol: From `eval.choose_protocol` on that set.
        preprocessing: Default: the model's own data config.
        settings: Default: `Settings()`.
        progress: Makes a progress bar; default none.
        world: The processes that share the work; each calls this alike, and each gets the result.

    Raises:
        TimmGamError: any of the errors in `timm_gam.core.errors`.
    """
    settings = settings or Settings()
    embedder = Embedder(loaded, preprocessing, settings.embed)
    rows = protocol.images
    world.agree("the images", _listing(images, rows))
    world.agree("weights, options or package versions", json.dumps(embedder.key, sort_keys=True))
    embeddings, made = collect_embeddings(
        images,
        rows,
        embedder,
        cache=EmbeddingCache(settings.cache_folder, embedder.key) if settings.cache_folder is not None else None,
        world=world,
        progress=lambda count: progress(loaded.info.name, "img", count),
    )
    scored_protocol = protocol.restricted_to(embeddings.rows) if len(embeddings.rows) < len(rows) else protocol
    began = time.perf_counter()
    with progress("scoring", "query", len(scored_protocol.query)) as on_progress:
        scores = score_retrieval(
            embeddings.vectors,
            images.labels[embeddings.rows],
            query=np.searchsorted(embeddings.rows, scored_protocol.query),
            gallery=np.searchsorted(embeddings.rows, scored_protocol.gallery),
            ks=settings.ks,
            distance=settings.distance,
            replicates=settings.replicates,
            seed=settings.seed,
            memory_budget=settings.memory_budget,
            on_progress=on_progress,
            world=world,
        )
    return RetrievalResult(
        model=loaded.info,
        images=images,
        protocol=scored_protocol,
        preprocessing=embedder.preprocessing,
        settings=settings,
        scores=scores,
        dim=embeddings.vectors.shape[1],
        fingerprint=data_fingerprint(images, embeddings.rows, embeddings.digests),
        unreadable=embeddings.unreadable,
        queries_with_duplicate=_queries_with_duplicate(embeddings, scored_protocol),
        images_embedded=made,
        processes=world.size,
        optimizations=embedder.optimizations,
        embed_seconds=embeddings.seconds,
        score_seconds=time.perf_counter() - began,
    )


def _listing(images: ImageSet, rows: NDArray[np.int64]) -> str:
    return json.dumps([(images.ids[row], images.class_names[images.labels[row]]) for row in rows.tolist()])


def _queries_with_duplicate(embeddings: Embeddings, protocol: Protocol) -> int:
    content = embeddings.digests.groups()
    gallery, query = (content[np.searchsorted(embeddings.rows, rows)] for rows in (protocol.gallery, protocol.query))
    copies = np.bincount(gallery, minlength=len(content))
    return int((copies[query] > np.isin(protocol.query, protocol.gallery)).sum())
