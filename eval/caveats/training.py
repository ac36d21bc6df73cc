"""What the training of a network does to its scores: images that it was trained on, and images prepared otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.results.facts import TrainingImages
from timm_gam.core import ModelError
from timm_gam.images import Digests, Preprocessing, resolve_preprocessing
from timm_gam.models import LoadedModel

_WORDS = {"input_size": "size", "crop_pct": "crop", "crop_mode": "crop mode"}


def training_images(loaded: LoadedModel, digests: Digests) -> TrainingImages | None:
    """How many of some images a network was trained on; None where its weights do not say.

    Args:
        loaded: The network.
        digests: Content digests of the images.
    """
    training = loaded.training
    if not len(training.trained) + len(training.validated):
        return None
    numbers = digests.shortened()[digests.known]
    trained = np.isin(numbers, training.trained)
    validated = np.isin(numbers, training.validated) & ~trained
    return TrainingImages(trained=int(trained.sum()), validated=int(validated.sum()), images=len(digests))


def training_warnings(loaded: LoadedModel, preprocessing: Preprocessing, seen: TrainingImages | None) -> list[str]:
    """What a reader must know of a network's numbers, one line each."""
    lines = []
    if seen is not None and seen.trained + seen.validated:
        lines.append(
            f"{seen.trained} of {seen.images} photos are among those this network was trained on"
            + (f", {seen.validated} among those its epoch was chosen by" if seen.validated else "")
            + ": expect lower scores on new ones"
        )
    if loaded.info.weights.kind != "random":
        lines += _preprocessing_warnings(loaded, preprocessing)
    return lines


def _preprocessing_warnings(loaded: LoadedModel, preprocessing: Preprocessing) -> list[str]:
    try:
        own, used = resolve_preprocessing(loaded.model).of_weights(), preprocessing.of_weights()
    except ModelError:  # a data config that cannot be used, in place of which everything was given
        return []
    other = [name for name in used if used[name] != own[name]]
    if loaded.knows_preprocessing != bool(other):  # as they say, or chosen by whoever scores weights that say nothing
        return []
    if other:
        differences = ", ".join(
            f"{_WORDS.get(name, name)} {_shown(used[name])} for {_shown(own[name])}" for name in other
        )
        return [f"images are prepared otherwise than for these weights: {differences}"]
    size = " x ".join(map(str, preprocessing.input_size[1:]))
    return [
        f"'{loaded.info.weights.reference}' does not say how images are prepared for it; they are as for any "
        f"{loaded.info.architecture}: {size} pixels, {preprocessing.interpolation}, crop {preprocessing.crop_pct} "
        "(--img-size, --interpolation, --crop-pct, --mean, --std)"
    ]


def _shown(value: Any) -> str:
    return " x ".join(map(str, value[1:])) if isinstance(value, list) and isinstance(value[0], int) else str(value)
