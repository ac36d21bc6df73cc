"""The two ways to a result: from vectors and their labels, or from a model and images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.ranked import Ranking, ranked_result
from eval.results.certificate import certify
from eval.results.facts import (
    Data,
    Facts,
    Model,
    PreprocessingRecord,
    Timings,
    Unreadable,
    Weights,
)
from eval.results.result import RetrievalResult, Settings
from timm_gam.core import ALONE, DataError, ProgressBar, World, no_progress
from timm_gam.data import ImageSet, Protocol, choose_protocol, class_warnings, read_images, training_rows
from timm_gam.embed import Embedder, Embeddings, FileStore, collect_embeddings
from timm_gam.images import Preprocessing, data_fingerprint
from timm_gam.models import LoadedModel, ModelInfo, load_model, loaded_module


def score(
    vectors: NDArray[np.floating] | Tensor | Sequence[Sequence[float]],
    labels: Sequence[Any] | NDArray[Any] | Tensor,
    *,
    ids: Sequence[str] | None = None,
    query: Sequence[int] | NDArray[np.integer] | None = None,
    gallery: Sequence[int] | NDArray[np.integer] | None = None,
    settings: Settings | None = None,
    name: str = "vectors",
) -> RetrievalResult:
    """Score how well vectors retrieve others of their label: every row against all others, unless told otherwise.

    Args:
        vectors: (N, D) float: NumPy, torch on any device, or lists.
        labels: N integers, strings or anything else that compares; rows with equal labels are relevant to each other.
        ids: N unique names of the rows; default their numbers.
        query: Rows that are queries; default all.
        gallery: Distinct rows that are ranked; default all. A query among them is left out of its own ranking.
        settings: Distance, cutoffs, bootstrap; default `Settings()`.
        name: How tables call the result.

    Raises:
        EmbeddingError: vectors that are not finite or not a matrix.
        DataError: lengths that differ, an illegal cutoff or row, or no query with a relevant row.

    >>> result = score([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"])
    >>> result
    RetrievalResult('vectors' on 'vectors': 4 queries, 4 gallery images; in %: hit@1 100.00, hit@10 100.00, \
precision@10 10.00, ndcg@10 100.00, map@r 100.00, map 100.00)
    >>> result.ranking(0).ranked[0]
    Ranked(id='1', class_name='cat', score=0.993..., relevant=True)
    """
    settings = settings or Settings()
    matrix = vectors.detach() if isinstance(vectors, Tensor) else _array(vectors)
    given = _array(labels)
    if given.ndim != 1 or len(given) != len(matrix):
        raise DataError(f"labels of shape {given.shape} came for {len(matrix)} vectors; one label each is needed")
    names, classes = np.unique(given, return_inverse=True)
    identities = tuple(map(str, range(len(matrix)))) if ids is None else tuple(ids)
    if len(set(identities)) != len(matrix):
        raise DataError(f"{len(set(identities))} different ids came for {len(matrix)} vectors; one each is needed")
    queries, ranked = (_rows(rows, len(matrix), what) for rows, what in ((query, "query"), (gallery, "gallery")))
    whole = np.array_equal(queries, ranked)
    protocol = Protocol(
        "leave-one-out" if whole else "query-gallery",
        "leave-one-out: each vector against all others" if whole else "query-gallery: chosen rows against others",
        "none",
        queries,
        ranked,
    )
    ranking = Ranking(
        matrix,
        identities,
        classes.astype(np.int64),
        tuple(str(value) for value in names.tolist()),
        protocol,
        str(matrix.device) if isinstance(matrix, Tensor) else "cpu",
    )
    return ranked_result(
        ranking,
        settings,
        lambda scored: Facts(
            data=Data(
                name=name,
                fingerprint=None,
                images=len(matrix),
                classes=len(names),
                warnings=_class_warnings(classes, tuple(map(str, names.tolist())), protocol),
            ),
            **scored,
        ),
    )


def evaluate(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSet,
    protocol: Protocol | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
    progress: ProgressBar = no_progress,
    world: World = ALONE,
) -> RetrievalResult:
    """Embed images with a model and score their retrieval.

    Args:
        model: A timm model's name with its pretrained weights ("resnet50.a1_in1k", "hf-hub:owner/name",
            "local-dir:folder"), a timm module, or what `eval.load_model` gives.
        images: A folder of class folders, parquet, or an image set.
        protocol: From `eval.choose_protocol` on those images; default leave-one-out over all of them.
        preprocessing: Default: the model's own data config.
        settings: Default: `Settings()`.
        progress: Makes a progress bar; default none.
        world: The processes that share the work; each calls this alike, and each gets the result.

    Raises:
        TimmGamError: any of the errors in `timm_gam.core.errors`.

    >>> import eval
    >>> result = eval.evaluate("test_resnet_gam.corel", eval.draw_synthetic(2))
    >>> result.facts.weights.kind
    'pretrained'
    """
    settings = settings or Settings()
    loaded = _loaded(model)
    image_set = images if isinstance(images, ImageSet) else read_images(str(images), None)
    protocol = protocol or choose_protocol(image_set)
    embedder = Embedder(loaded, preprocessing, settings.embed)
    embeddings, made = _embed(embedder, image_set, protocol.images, settings, progress, world)
    rows = embeddings.rows
    scored = protocol.restricted_to(rows) if len(rows) < len(protocol.images) else protocol

    def facts(common: dict[str, Any]) -> Facts:
        timings: Timings = common.pop("timings")
        dim = embeddings.vectors.shape[1]
        return Facts(
            **_model_facts(loaded.info, settings, dim),
            data=_data_facts(image_set, embeddings, scored),
            preprocessing=PreprocessingRecord(**embedder.preprocessing.as_dict()),
            certificate=certify(embedder.preprocessing, settings.embed, settings.distance),
            precision=str(settings.embed.amp_dtype or "float32").removeprefix("torch."),
            timings=timings.model_copy(
                update={
                    "embedding_seconds": round(embeddings.seconds, 3),
                    "embedding_from_cache": made == 0,
                    "images_embedded": made,
                    "processes": world.size,
                    "optimizations": embedder.optimizations,
                    "batch_size": settings.embed.batch_size,
                    "workers": settings.embed.workers,
                    "device": settings.embed.device,
                }
            ),
            **common,
        )

    ids = tuple(image_set.ids[row] for row in rows.tolist())
    labels, classes = image_set.labels[rows], image_set.class_names
    here = Protocol(
        scored.name,
        scored.description,
        scored.split_rule,
        np.searchsorted(rows, scored.query),
        np.searchsorted(rows, scored.gallery),
        scored.splits,
    )
    recipe, fitted_on = settings.recipe, "a file"
    if isinstance(recipe.whitening, int):
        training, fitted_on = training_rows(image_set, protocol)
        known, _ = _embed(embedder, image_set, training, settings, progress, world)
        recipe = recipe.fitted(torch.from_numpy(np.array(known.vectors)))
    return ranked_result(
        Ranking(embeddings.vectors, ids, labels, classes, here, settings.embed.device),
        replace(settings, recipe=recipe),
        facts,
        images=image_set,
        fitted_on=fitted_on,
        progress=progress,
        world=world,
    )


def _embed(
    embedder: Embedder,
    images: ImageSet,
    rows: NDArray[np.int64],
    settings: Settings,
    progress: ProgressBar,
    world: World,
) -> tuple[Embeddings, int]:
    """The embeddings of some images, and how many were made now."""
    compiled = settings.embed.optimize or settings.embed.compile_backend is not None
    compiling = " (compiles first, up to a minute)" if compiled else ""
    world.agree("the images", _listing(images, rows))
    world.agree("weights, options or package versions", json.dumps(embedder.key, sort_keys=True))
    return collect_embeddings(
        images,
        rows,
        embedder,
        store=FileStore(settings.cache_folder, embedder.key) if settings.cache_folder is not None else None,
        world=world,
        progress=lambda count: progress(embedder.loaded.info.name + compiling, "img", count),
    )


def _listing(images: ImageSet, rows: NDArray[np.int64]) -> str:
    return json.dumps([(images.ids[row], images.class_names[images.labels[row]]) for row in rows.tolist()])


def _loaded(model: str | nn.Module | LoadedModel) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    return load_model(model) if isinstance(model, str) else loaded_module(model)


def _model_facts(info: ModelInfo, settings: Settings, dim: int) -> dict[str, Any]:
    return {
        "model": Model(
            name=info.name,
            architecture=info.architecture,
            model_args=info.model_args,
            parameters=info.num_params,
            embedding_layer=settings.embed.layer,
            embedding_dim=dim,
            views=settings.embed.views,
        ),
        "weights": Weights(kind=info.weights.kind, reference=info.weights.reference, sha256=info.weights.sha256),
    }


def _data_facts(images: ImageSet, embeddings: Embeddings, protocol: Protocol) -> Data:
    return Data(
        name=images.name,
        fingerprint=data_fingerprint(images, embeddings.rows, embeddings.digests),
        images=len(protocol.images),
        classes=len(np.unique(images.labels[protocol.images])),
        queries_with_duplicate=_queries_with_duplicate(embeddings, protocol),
        unreadable=[Unreadable(id=name, reason=reason) for name, reason in sorted(embeddings.unreadable.items())],
        left_out=dict(images.left_out),
        warnings=[*images.notes, *_class_warnings(images.labels, images.class_names, protocol)],
    )


def _class_warnings(labels: NDArray[np.int64], class_names: tuple[str, ...], protocol: Protocol) -> list[str]:
    query, gallery = np.unique(labels[protocol.query]), np.unique(labels[protocol.gallery])
    warnings = class_warnings(labels[protocol.images], class_names)
    if len(lost := np.setdiff1d(query, gallery)):
        warnings.append(
            f"{len(lost)} of {len(query)} classes of the queries have no image in the gallery "
            f"('{class_names[int(lost[0])]}', ...); their queries are left out"
        )
    return warnings


def _queries_with_duplicate(embeddings: Embeddings, protocol: Protocol) -> int:
    content = embeddings.digests.groups()
    gallery, query = (content[np.searchsorted(embeddings.rows, rows)] for rows in (protocol.gallery, protocol.query))
    copies = np.bincount(gallery, minlength=len(content))
    return int((copies[query] > np.isin(protocol.query, protocol.gallery)).sum())


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has none
    return np.asarray(values)


def _rows(rows: Any, count: int, what: str) -> NDArray[np.int64]:
    if rows is None:
        return np.arange(count, dtype=np.int64)
    chosen = _array(rows).astype(np.int64)
    if chosen.ndim != 1 or not len(chosen) or chosen.min() < 0 or chosen.max() >= count:
        raise DataError(f"{what} rows must be whole numbers from 0 to {count - 1}, at least one")
    return chosen
