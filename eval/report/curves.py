"""Precision against recall, rank by rank, as points of an SVG path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.results.result import RetrievalResult

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40


def precision_recall(result: RetrievalResult) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean recall@k and precision@k of the scored queries for k = 1 to the kept depth: two (K,) arrays in [0, 1].

    Of images with equal scores the order of the result is taken; the metrics of the table take the expectation.
    """
    hits = result.relevant[result.scored].cumsum(axis=1)
    sizes = np.bincount(result.labels[result.gallery], minlength=len(result.class_names))
    own = np.isin(result.query, result.gallery)
    relevant = (sizes[result.query_labels] - own)[result.scored]
    ranks = np.arange(1, hits.shape[1] + 1)
    return (hits / relevant[:, None]).mean(axis=0), (hits / ranks).mean(axis=0)


def svg_plot(results: list[RetrievalResult]) -> dict[str, Any]:
    """What the template draws: one path per result, ticks and their places, within one view box."""
    curves = [precision_recall(result) for result in results]
    right = _nice(max(float(recall.max()) for recall, _ in curves))

    def x(value: float) -> float:
        return round(_LEFT + value / right * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value * (_HEIGHT - _TOP - _BOTTOM), 1)

    marks = [k for k in (1, 10, 100) if k <= min(len(recall) for recall, _ in curves)]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "bottom": _HEIGHT - _BOTTOM,
        "top": _TOP,
        "depth": min(len(recall) for recall, _ in curves),
        "x_ticks": [{"at": x(value), "text": f"{100 * value:g}"} for value in np.linspace(0, right, 6).round(4)],
        "y_ticks": [{"at": y(value), "text": f"{100 * value:g}"} for value in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        "lines": [
            {
                "points": " ".join(f"{x(r)},{y(p)}" for r, p in zip(recall, precision, strict=True)),
                "marks": [{"x": x(recall[k - 1]), "y": y(precision[k - 1]), "k": k} for k in marks],
                "name": result.name,
            }
            for result, (recall, precision) in zip(results, curves, strict=True)
        ],
    }


def _nice(value: float) -> float:
    return next((limit for limit in (0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0) if value <= limit), 1.0)
