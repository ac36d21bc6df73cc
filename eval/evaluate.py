"""One model on one image set under one protocol: embeddings, scores and everything needed to repeat them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import timm_gam
from eval.cache import CacheKey, EmbeddingCache, data_fingerprint
from eval.distributed import ALONE, World
from eval.embedding import EmbeddedBatch, Embeddings, OnUnreadable, embed_batches
from eval.embedding_pass import collect_embeddings
from eval.environment import versions
from eval.errors import ModelError
from eval.images import ImageSet
from eval.integer_vectors import Distance
from eval.metrics import DEFAULT_KS
from eval.models import EmbeddingLayer, LoadedModel, ModelInfo, embedding_network
from eval.preprocessing import SHRINK_MARGIN, Preprocessing, resolve_preprocessing
from eval.protocols import Protocol
from eval.ranking import DEFAULT_MEMORY_BUDGET
from eval.scoring import RetrievalScores, score_retrieval

__all__ = ["RetrievalResult", "Settings", "compiler_errors", "evaluate_model"]

ProgressBar = Callable[[str, str, int], AbstractContextManager[Callable[[int], None]]]
"""(what is done, unit, total) -> a context that gives a function to be called with each number of units done."""


_COMPUTED_WITH = ("timm-gam", "timm", "torch", "torchvision", "pillow")
"""Packages that decode, preprocess and compute: kept embeddings are those of the versions a record names."""


@dataclass(frozen=True)
class Settings:
    """How embeddings are made and scored; the defaults are the command line's."""

    layer: EmbeddingLayer = "pooled"
    distance: Distance = "cosine"
    ks: Sequence[int] = DEFAULT_KS
    replicates: int = 1000  # bootstrap replicates of the 95 % intervals
    seed: int = 0  # of the bootstrap
    batch_size: int = 32
    workers: int | None = None  # loader processes; None: chosen for the device
    device: str = "cpu"
    amp_dtype: torch.dtype | None = None  # None: float32
    channels_last: bool = False
    compile_backend: str | None = None  # torch.compile backend; None: eager
    optimize: bool = False  # prepare the network with `timm_gam.optimize`
    on_unreadable: OnUnreadable = "raise"
    memory_budget: int = DEFAULT_MEMORY_BUDGET  # bytes for ranking beyond the embeddings
    cache_folder: Path | None = None  # None: embeddings are not kept


@dataclass(frozen=True)
class RetrievalResult:
    """A scored run and what it was made of. `eval.report` turns it into a table or JSON."""

    model: ModelInfo
    images: ImageSet
    protocol: Protocol
    preprocessing: Preprocessing
    settings: Settings
    scores: RetrievalScores
    dim: int
    fingerprint: str
    unreadable: dict[str, str]
    queries_with_duplicate: int  # queries whose gallery holds another image with the very same bytes
    images_embedded: int  # in this run; the other embeddings were kept from earlier ones
    processes: int
    optimizations: list[str]  # what `Settings.optimize` did to the network; empty where it embedded nothing
    embed_seconds: float
    score_seconds: float

    @property
    def from_cache(self) -> bool:
        """Whether every embedding was kept from an earlier run."""
        return self.images_embedded == 0


def _no_progress(what: str, unit: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


def evaluate_model(
    loaded: LoadedModel,
    images: ImageSet,
    protocol: Protocol,
    *,
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
    progress: ProgressBar = _no_progress,
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
        EvalError: any of the errors in `eval.errors`.
    """
    settings = settings or Settings()
    preprocessing = preprocessing or resolve_preprocessing(loaded.model)
    rows = protocol.images
    world.agree("the images", _listing(images, rows))
    optimizations: list[str] = []
    embeddings, made = _embed_or_reuse(loaded, images, rows, preprocessing, settings, progress, world, optimizations)
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
        preprocessing=preprocessing,
        settings=settings,
        scores=scores,
        dim=embeddings.vectors.shape[1],
        fingerprint=data_fingerprint(images, embeddings.rows, embeddings.digests),
        unreadable=embeddings.unreadable,
        queries_with_duplicate=_queries_with_duplicate(embeddings, scored_protocol),
        images_embedded=made,
        processes=world.size,
        optimizations=optimizations,
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


def _embed_or_reuse(
    loaded: LoadedModel,
    images: ImageSet,
    rows: NDArray[np.int64],
    preprocessing: Preprocessing,
    settings: Settings,
    progress: ProgressBar,
    world: World,
    optimizations: list[str],
) -> tuple[Embeddings, int]:
    def embed(mine: NDArray[np.int64], take: Callable[[EmbeddedBatch], None]) -> None:
        with compiler_errors(settings.compile_backend):
            network = embedding_network(loaded.model, settings.layer)
            if settings.compile_backend is not None:
                network.compile(backend=settings.compile_backend)
            if settings.optimize:
                network = timm_gam.optimize(network, dtype=settings.amp_dtype)
            embed_batches(
                network,
                images,
                preprocessing,
                take,
                rows=mine,
                batch_size=settings.batch_size,
                workers=settings.workers,
                device=settings.device,
                amp_dtype=settings.amp_dtype,
                channels_last=settings.channels_last,
                on_unreadable=settings.on_unreadable,
            )
            if isinstance(network, timm_gam.OptimizedNetwork):
                optimizations.extend(network.applied)

    installed = versions()
    key: CacheKey = {
        "architecture": loaded.info.architecture,
        "model_args": loaded.info.model_args,
        "weights": loaded.info.weights.sha256,
        "layer": settings.layer,
        "preprocessing": preprocessing.as_dict(),
        "precision": str(settings.amp_dtype or torch.float32),
        "optimize": settings.optimize,
        "versions": {name: installed[name] for name in _COMPUTED_WITH},
    }
    if preprocessing.shrink_on_load:
        key["shrink_margin"] = SHRINK_MARGIN
    world.agree("weights, options or package versions", json.dumps(key, sort_keys=True))
    return collect_embeddings(
        images,
        rows,
        embed,
        batch_size=settings.batch_size,
        cache=EmbeddingCache(settings.cache_folder, key) if settings.cache_folder is not None else None,
        world=world,
        progress=lambda count: progress(loaded.info.name, "img", count),
    )


@contextmanager
def compiler_errors(backend: str | None) -> Iterator[None]:
    """Within: what torch.compile raises with `backend` becomes a ModelError; None compiles nothing."""
    if backend is None:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"torch.compile with backend '{backend}' failed: {reason}; leave out --torchcompile"
        ) from error
