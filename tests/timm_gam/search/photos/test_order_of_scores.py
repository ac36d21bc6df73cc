"""Photographs are listed by the scores that are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.timm_gam.search.photos.test_stores import DIM, Photographs, digest, vector
from timm_gam.search.stores.exact import ExactStore


def test_scores_descend_where_rounding_would_order_otherwise(tmp_path: Path) -> None:
    photographs = Photographs(tmp_path / "index")
    near = vector(0) + np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32) * 1e-5
    photographs.rows = {f"{number}.jpg": (digest(number), None, 4, 3) for number in range(60)}
    photographs.add(range(60), near)
    photographs.look()
    for found in ExactStore(photographs.catalogue, photographs.embeddings).nearest(near[:20], 60):
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True) and len(set(found)) == 60
