"""Why two images match, and where a network looks: made while the network is loaded, kept as small pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eval.results.facts import Facts, Model
from eval.results.result import RetrievalResult
from timm_gam.core import ModelError
from timm_gam.embed import attention_maps, location_split
from timm_gam.images import DecodeLimits, Preprocessing, as_seen, data_uri, network_inputs
from timm_gam.models import LoadedModel

_PAIRS = 4  # of the best and of the worst queries each
_GATED = 4  # queries whose gates are shown
_LAYERS = 4


@dataclass(frozen=True)
class Seen:
    """An image as the network saw it, and what each place of it adds to a score: (h, w) float64, which sum up to it."""

    id: str
    class_name: str
    picture: str
    parts: NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """A query, the image ranked first for it, and their cosine similarity as it was ranked."""

    query: Seen
    match: Seen
    score: float


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
    images, matches, note = result.images, list[Match](), _why_none(result.facts, result.facts.model)
    layer = result.facts.model.embedding_layer
    scored = np.flatnonzero(result.scored)
    order = scored[np.argsort(result.metric("map")[scored], kind="stable")]
    wrong = [place for place in order.tolist() if not result.relevant[place, 0]][:_PAIRS]
    right = [place for place in order[::-1].tolist() if result.relevant[place, 0]][:_PAIRS]
    pairs = [(int(result.query[place]), int(result.neighbours[place, 0])) for place in (*right, *wrong)]
    wanted = {result.ids[row] for pair in pairs for row in pair}
    rows = [row for row, name in enumerate(images.ids) if name in wanted]
    pictures = {images.ids[row]: pixels for row, pixels in network_inputs(images, rows, preprocessing, limits)}

    def seen(row: int, parts: NDArray[np.float64]) -> Seen:
        picture = data_uri(as_seen(pictures[result.ids[row]], preprocessing))
        return Seen(result.ids[row], result.class_names[result.labels[row]], picture, parts)

    for place, (query, match) in zip((*right, *wrong), pairs, strict=True) if not note else ():
        try:
            split = location_split(loaded.model, pictures[result.ids[query]], pictures[result.ids[match]], layer)
        except ModelError as error:
            note = str(error)
            break
        matches.append(Match(seen(query, split.query), seen(match, split.match), float(result.scores[place, 0])))
    return Explanation(matches, _gates(result, loaded, pictures, preprocessing), note)


def _why_none(facts: Facts, model: Model) -> str:
    """Why scores do not split over places, if they do not."""
    if facts.recipe is not None:
        return "These scores are those of a re-ranking or of other vectors; they do not split over places."
    if model.views or model.head:
        return "Embeddings are pooled, averaged over views or projected, so scores do not split over places."
    if facts.protocol.distance != "cosine":
        return "Scores are Euclidean distances, which do not split over places; cosine similarity does."
    return ""


def _gates(
    result: RetrievalResult, loaded: LoadedModel, pictures: dict[str, torch.Tensor], preprocessing: Preprocessing
) -> list[Gates]:
    ids = list(pictures)[:_GATED]
    if not ids:
        return []
    maps = attention_maps(loaded.model, torch.stack([pictures[name] for name in ids]))
    names = [name for name, gates in maps.items() if gates.shape[1] * gates.shape[2] > 1]
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(_LAYERS, len(names))).astype(int))]
    if not shown:
        return []
    return [
        Gates(name, data_uri(as_seen(pictures[name], preprocessing)), {layer: maps[layer][i] for layer in shown})
        for i, name in enumerate(ids)
    ]
