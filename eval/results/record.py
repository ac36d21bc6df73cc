"""Results -> a JSON document for programs (schema: eval/results/results.schema.json)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from eval.results.result import RetrievalResult
from eval.scoring.intervals import Average, class_means
from eval.scoring.metrics import DEFINITIONS
from timm_gam.core import hardware, versions

__all__ = ["SCHEMA", "document", "per_class"]

SCHEMA = "timm-gam/retrieval/1"


def document(results: Sequence[RetrievalResult], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON document of a run: common facts once, one self-contained entry per model.

    Args:
        results: Scored models.
        notes: What a reader must know, such as why the embedded default was used.
    """
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "notes": list(notes),
        "seed": results[0].settings.seed,
        "definitions": DEFINITIONS,
        "versions": versions(),
        "hardware": hardware(),
        "results": [_entry(result) for result in results],
    }


def _entry(result: RetrievalResult) -> dict[str, Any]:
    model, protocol, scores, settings = result.model, result.protocol, result.scores, result.settings
    return {
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "model_args": model.model_args,
            "parameters": model.num_params,
            "embedding_layer": settings.embed.layer,
            "embedding_dim": result.dim,
        },
        "weights": asdict(model.weights),
        "data": {
            "name": result.images.name,
            "fingerprint": result.fingerprint,
            "images": len(protocol.images),
            "classes": len(set(result.images.labels[protocol.images].tolist())),
            "queries_with_duplicate": result.queries_with_duplicate,
            "unreadable": [{"id": name, "reason": reason} for name, reason in sorted(result.unreadable.items())],
        },
        "protocol": {
            "name": protocol.name,
            "description": protocol.description,
            "split_rule": protocol.split_rule,
            "queries": len(protocol.query),
            "queries_scored": int(scores.scored.sum()),
            "queries_without_relevant": int((~scores.scored).sum()),
            "gallery": len(protocol.gallery),
            "distance": settings.distance,
            "ties": "expectation over all orders of equal scores",
        },
        "preprocessing": result.preprocessing.as_dict(),
        "precision": str(settings.embed.amp_dtype or torch.float32).removeprefix("torch."),
        "metrics": {name: _average(average) for name, average in scores.averages.items()},
        "per_class": per_class(result),
        "bootstrap": {
            "replicates": settings.replicates,
            "confidence": 0.95,
            "method": "percentile over queries; macro within classes",
            "seed": settings.seed,
        },
        "timings": {
            "embedding_seconds": round(result.embed_seconds, 3),
            "embedding_from_cache": result.from_cache,
            "images_embedded": result.images_embedded,
            "processes": result.processes,
            "optimizations": result.optimizations,
            "scoring_seconds": round(result.score_seconds, 3),
            "batch_size": settings.embed.batch_size,
            "workers": settings.embed.workers,
            "device": settings.embed.device,
        },
    }


def _average(average: Average) -> dict[str, Any]:
    return {
        "micro": average.micro,
        "macro": average.macro,
        "micro_ci95": list(average.micro_interval) if average.micro_interval else None,
        "macro_ci95": list(average.macro_interval) if average.macro_interval else None,
    }


def per_class(result: RetrievalResult) -> list[dict[str, Any]]:
    """One entry per class: its name, its queries, and the mean of each metric over them."""
    scores = result.scores
    values = {name: column[scores.scored] for name, column in scores.per_query.items()}
    return [
        {"class": result.images.class_names[label], "queries": queries, "metrics": means}
        for label, queries, means in class_means(values, scores.labels[scores.scored])
    ]
