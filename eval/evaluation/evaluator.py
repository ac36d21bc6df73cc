"""Retrieval scores for training: `timm_gam.train` is handed one of these and knows no metric itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.evaluation.evaluate import evaluate
from eval.results.record import document
from eval.results.result import RetrievalResult, Settings
from eval.scoring.retrieval_scores import score_retrieval
from timm_gam.core import write_json
from timm_gam.data import ImageSet, Protocol
from timm_gam.embed import EmbedSettings
from timm_gam.images import resolve_preprocessing
from timm_gam.models import load_model
from timm_gam.train import VALIDATION_METRICS, Recipe, RunFolder, TrainingSplit

_BATCH = 64


class RetrievalEvaluator:
    """A `timm_gam.train.Evaluator` that scores as `python -m eval.retrieval` does.

    >>> vectors, labels = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    >>> RetrievalEvaluator().validate(vectors, labels)["map"]
    1.0
    """

    def validate(self, vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        """Leave-one-out retrieval among (N, D) embeddings; the metrics that training follows, in [0, 1]."""
        scores = score_retrieval(vectors, labels, ks=(1, 10), intervals="none")
        return {name: float(scores.averages[name].micro) for name in VALIDATION_METRICS}

    def test(
        self, folder: RunFolder, recipe: Recipe, images: ImageSet, split: TrainingSplit, *, device: str, note: str
    ) -> RetrievalResult:
        """Score the test split with the run's best weights and write evaluation.json."""
        result = score_test(folder, recipe, images, split.needed_test(), device=device)
        write_json(folder.evaluation, document([result], [note]))
        return result


def score_test(
    folder: RunFolder,
    recipe: Recipe,
    images: ImageSet,
    test: Protocol,
    *,
    device: str,
    cache_folder: Path | None = None,
) -> RetrievalResult:
    """Score leave-one-out retrieval on the test split, in float32.

    Args:
        folder: Of a run with a best epoch.
        recipe: Its own.
        images: The image set.
        test: Protocol over the test rows.
        device: Where the network runs.
        cache_folder: Keeps embeddings for another time; None does not.

    Raises:
        TimmGamError: any of the errors in `timm_gam.core.errors`.
    """
    loaded = load_model(recipe.model.partition(".")[0], checkpoint=folder.best)
    preprocessing = resolve_preprocessing(loaded.model, img_size=recipe.img_size)
    batch_size = min(recipe.batch_size, _BATCH)
    embed = EmbedSettings(batch_size=batch_size, workers=recipe.workers, device=device, limits=recipe.limits)
    settings = Settings(embed, cache_folder=cache_folder)
    return evaluate(loaded, images, test, preprocessing=preprocessing, settings=settings)
