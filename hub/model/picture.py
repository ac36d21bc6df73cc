"""The picture of a model card: what the published weights find among scenes that are drawn by code."""

from __future__ import annotations

from pathlib import Path

from eval import Settings, draw_synthetic, evaluate, ranking_picture
from timm_gam.core import ProgressBar, atomic_path

PICTURE_NAME = "retrieval.webp"
IMAGES_PER_CLASS = 6
_QUERIES = ("reef/0000", "night_city/0000", "mushrooms/0000")  # the first of three classes, whatever is found for them


def write_retrieval_picture(repository: Path, progress: ProgressBar) -> None:
    """Rank the drawn scenes by the weights in a repository's folder, and write the first results as a picture.

    Raises:
        ModelError: the folder cannot be loaded.
        OutputError: the picture cannot be written.
    """
    scenes = draw_synthetic(IMAGES_PER_CLASS)
    result = evaluate(f"local-dir:{repository}", scenes, settings=Settings(intervals="none"), progress=progress)
    with atomic_path(repository / PICTURE_NAME) as temporary:
        ranking_picture(result, scenes, _QUERIES).save(temporary, "webp", quality=80)
