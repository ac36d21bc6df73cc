"""The test split, scored with a run's best weights by the evaluation's own functions."""

from __future__ import annotations

from pathlib import Path

from eval.evaluate import RetrievalResult, Settings, evaluate_model
from eval.images import ImageSet
from eval.models import load_model
from eval.preprocessing import resolve_preprocessing
from eval.protocols import Protocol
from timm_gam.train.recipe import Recipe
from timm_gam.train.run_folder import RunFolder

__all__ = ["score_test"]

_BATCH = 64


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
        EvalError: any of the errors in `eval.errors`.
    """
    loaded = load_model(recipe.model.partition(".")[0], checkpoint=folder.best)
    preprocessing = resolve_preprocessing(loaded.model, img_size=recipe.img_size)
    settings = Settings(
        batch_size=min(recipe.batch_size, _BATCH), workers=recipe.workers, device=device, cache_folder=cache_folder
    )
    return evaluate_model(loaded, images, test, preprocessing=preprocessing, settings=settings)
