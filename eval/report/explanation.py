"""Why two images match, and where a network looks: made while the network is loaded, kept as small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eval.results.result import RetrievalResult
from timm_gam.core import ModelError
from timm_gam.data import ImageSet
from timm_gam.embed import attention_maps, location_split
from timm_gam.images import DecodeLimits, Preprocessing, as_seen, data_uri, network_inputs
from timm_gam.models import LoadedModel

_PAIRS = 4  # of the best and of the worst queries each
_GATED = 4  # queries whose gates are shown
_LAYERS = 4


@dataclass(frozen=True)
class Match:
    """A query and the image ranked first for it, as the network saw them, and what each place adds to their score.

    Attributes:
        score: Cosine similarity as it was ranked.
        query_parts: (h, w) float64; their sum is the score.
        match_parts: The same for the other image.
    """

    query_id: str
    match_id: str
    query_class: str
    match_class: str
    score: float
    query_picture: str
    match_picture: str
    query_parts: NDArray[np.float64]
    match_parts: NDArray[np.float64]


@dataclass(frozen=True)
class Gates:
    """An image as the network saw it and the mean gate of some attention layers at each place: (h, w) in [0, 1]."""

    id: str
    picture: str
    layers: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Explanation:
    """What a page tells of one network beside its scores; `note` says why matches are missing."""

    matches: list[Match]
    gates: list[Gates]
    note: str = ""


def explain(
    result: RetrievalResult,
    loaded: LoadedModel,
    preprocessing: Preprocessing,
    limits: DecodeLimits = DecodeLimits(),
) -> Explanation:
    """Split the scores of the best and worst queries' first images over places, and take the gates of some queries.

    The network runs on the CPU in float32; images that cannot be read are left out. For a result without its images
    `note` says so.

    >>> import eval
    >>> loaded, scenes = eval.load_model("test_resnet_gam.corel"), eval.draw_synthetic(2)
    >>> preprocessing = eval.resolve_preprocessing(loaded.model)
    >>> explanation = explain(eval.evaluate(loaded, scenes, preprocessing=preprocessing), loaded, preprocessing)
    >>> len(explanation.matches) > 0
    True
    """
    if result.images is None or result.facts.model is None:
        return Explanation([], [], "The photographs were not given.")
    layer = result.facts.model.embedding_layer
    wrong = [place for place in _order(result) if not result.relevant[place, 0]][:_PAIRS]
    right = [place for place in reversed(_order(result)) if result.relevant[place, 0]][:_PAIRS]
    pictures = _pixels(result.images, _ids(result, [*right, *wrong]), preprocessing, limits)
    matches, note = [], ""
    for place in (*right, *wrong):
        query, match = int(result.query[place]), int(result.neighbours[place, 0])
        pair = [pictures.get(result.ids[row]) for row in (query, match)]
        if pair[0] is None or pair[1] is None:
            continue
        if result.facts.recipe is not None:
            note = "These scores are those of a re-ranking or of other vectors; they do not split over places."
            break
        if result.facts.model.views or result.facts.model.head:
            note = "Embeddings are pooled, averaged over views or projected, so scores do not split over places."
            break
        if result.facts.protocol.distance != "cosine":
            note = "Scores are Euclidean distances, which do not split over places; cosine similarity does."
            break
        try:
            split = location_split(loaded.model, pair[0], pair[1], layer)
        except ModelError as error:
            note = str(error)
            break
        matches.append(
            Match(
                result.ids[query],
                result.ids[match],
                result.class_names[result.labels[query]],
                result.class_names[result.labels[match]],
                float(result.scores[place, 0]),
                data_uri(as_seen(pair[0], preprocessing)),
                data_uri(as_seen(pair[1], preprocessing)),
                split.query,
                split.match,
            )
        )
    return Explanation(matches, _gates(result, loaded, pictures, preprocessing), note)


def _order(result: RetrievalResult) -> list[int]:
    scored = np.flatnonzero(result.scored)
    order: list[int] = scored[np.argsort(result.metric("map")[scored], kind="stable")].tolist()
    return order


def _ids(result: RetrievalResult, places: Sequence[int]) -> list[str]:
    rows = {int(row) for place in places for row in (result.query[place], result.neighbours[place, 0])}
    return [result.ids[row] for row in rows]


def _pixels(
    images: ImageSet, ids: Sequence[str], preprocessing: Preprocessing, limits: DecodeLimits
) -> dict[str, torch.Tensor]:
    wanted = set(ids)
    rows = [row for row, name in enumerate(images.ids) if name in wanted]
    return {images.ids[row]: pixels for row, pixels in network_inputs(images, rows, preprocessing, limits)}


def _gates(
    result: RetrievalResult, loaded: LoadedModel, pictures: dict[str, torch.Tensor], preprocessing: Preprocessing
) -> list[Gates]:
    ids = list(pictures)[:_GATED]
    if not ids:
        return []
    maps = attention_maps(loaded.model, torch.stack([pictures[name] for name in ids]))
    flat = [name for name, gates in maps.items() if gates.shape[1] * gates.shape[2] == 1]
    names = [name for name in maps if name not in flat]
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(_LAYERS, len(names))).astype(int))]
    if not shown:
        return []
    return [
        Gates(name, data_uri(as_seen(pictures[name], preprocessing)), {layer: maps[layer][i] for layer in shown})
        for i, name in enumerate(ids)
    ]
