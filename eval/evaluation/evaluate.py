"""The two ways to a result: from vectors and their labels, or from a model and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.evaluation.embedded_images import embed_for, embed_rows, warnings_of_classes
from eval.evaluation.ranked_result import Ranking, ranked_result
from eval.results.facts import Data, Facts
from eval.results.result import RetrievalResult, Settings
from eval.scoring.labels import Labels, class_codes
from eval.scoring.retrieval_scores import RowChoice, chosen_rows
from timm_gam.core import ALONE, DataError, ProgressBar, World, no_progress
from timm_gam.data import ImageSet, Protocol, choose_protocol, read_images, training_rows
from timm_gam.embed import Embedder
from timm_gam.images import Preprocessing
from timm_gam.models import LoadedModel, load_model, loaded_module
from timm_gam.search import as_vectors


def score(
    vectors: NDArray[np.floating] | Tensor | Sequence[Sequence[float]],
    labels: Labels,
    *,
    ids: Sequence[str] | None = None,
    query: RowChoice | None = None,
    gallery: RowChoice | None = None,
    settings: Settings | None = None,
    name: str = "vectors",
) -> RetrievalResult:
    """Score how well vectors retrieve others of their label: every row against all others, unless told otherwise.

    Args:
        vectors: (N, D) float: NumPy, torch on any device, or lists.
        labels: N integers, strings or anything else that compares; rows with equal labels are relevant to each other.
        ids: N unique names of the rows; default their numbers.
        query: Rows that are queries, or a mask of N; default all.
        gallery: Distinct rows that are ranked, or a mask; default all. A query among them is left out of its own
            ranking.
        settings: Distance, cutoffs, intervals; default `Settings()`.
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
    matrix = as_vectors(vectors)
    given, classes = class_codes(labels)
    if len(given) != len(matrix):
        raise DataError(f"{len(given)} labels came for {len(matrix)} vectors; one label each is needed")
    names = tuple(map(str, given[np.unique(classes, return_index=True)[1]].tolist()))
    identities = tuple(map(str, range(len(matrix)))) if ids is None else tuple(ids)
    if len(set(identities)) != len(matrix):
        raise DataError(f"{len(set(identities))} different ids came for {len(matrix)} vectors; one each is needed")
    queries, ranked = chosen_rows(query, len(matrix), "query"), chosen_rows(gallery, len(matrix), "gallery")
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
        classes,
        names,
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
                warnings=warnings_of_classes(classes, names, protocol),
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
    image_set = images if isinstance(images, ImageSet) else read_images(str(images), None)  # before weights are pulled
    if not isinstance(model, LoadedModel):
        model = load_model(model) if isinstance(model, str) else loaded_module(model)
    protocol = protocol or choose_protocol(image_set)
    within = bool(np.isin(protocol.query, protocol.gallery).any())
    settings.recipe.check(len(protocol.gallery), within=within)
    embedder = Embedder(model, preprocessing, settings.embed)
    embedded = embed_for(embedder, image_set, protocol, settings, progress, world)
    recipe, fitted_on = settings.recipe, "other vectors"
    if isinstance(recipe.whitening, int):
        training, fitted_on = training_rows(image_set, protocol)
        known, _ = embed_rows(embedder, image_set, training, settings, progress, world)
        recipe = recipe.fitted(known.vectors)
    return ranked_result(
        embedded.ranking,
        replace(settings, recipe=recipe),
        embedded.facts,
        images=image_set,
        fitted_on=fitted_on,
        progress=progress,
        world=world,
    )
