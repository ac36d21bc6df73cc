"""Results -> a table for people and a JSON document for programs (schema: eval/results.schema.json)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eval.averages import Average, class_means
from eval.environment import hardware, versions
from eval.evaluate import RetrievalResult
from eval.files import atomic_path
from eval.metrics import DEFINITIONS

__all__ = [
    "PAPER_TABLE",
    "SCHEMA",
    "document",
    "metric_table",
    "paper_table",
    "per_class_table",
    "summary",
    "text_table",
    "write_json",
]

SCHEMA = "timm-gam/retrieval/1"

# Tang, Jiang, Yang (2023), Table 1: COREL-10K, their weights, their split; Top-K is hit@K in per cent.
PAPER_TABLE = (
    ("Resnet50", "25.6 M", 77.25, 90.62),
    ("Resnet50 + SENet", "28.1 M", 78.08, 91.51),
    ("Resnet50 + CBAM", "28.2 M", 78.57, 91.84),
    ("Resnet50 + GAM", "151.4 M", 79.18, 91.93),
)


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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a document to `path`, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def summary(result: RetrievalResult) -> str:
    """What was scored, in a few lines: data, protocol, and what was left out. It stands above every table."""
    protocol, scored = result.protocol, result.scores.scored
    lines = [
        f"data      {result.images.name}: {len(protocol.images)} images, fingerprint {result.fingerprint[:12]}",
        f"protocol  {protocol.description}; {result.settings.distance}",
    ]
    if protocol.split_rule != "none":
        lines.append(f"splits    {protocol.split_rule}")
    if not scored.all():
        lines.append(f"left out  {int((~scored).sum())} of {len(scored)} queries without another image of their class")
    if result.queries_with_duplicate:
        lines.append(f"note      {result.queries_with_duplicate} queries have a byte-identical twin in their gallery")
    if result.unreadable:
        lines.append(f"skipped   {len(result.unreadable)} unreadable images")
    return "\n".join([*lines, ""])


def metric_table(results: Sequence[RetrievalResult]) -> str:
    """Models side by side: one row per metric, one column per model; per cent, with 95 % intervals."""
    names = list(results[0].scores.averages)
    header = ["micro average, %", *(result.model.name for result in results)]
    body = [[name, *(_cell(result.scores.averages[name]) for result in results)] for name in names]
    macro = [
        [f"{name} (macro)", *(f"{100 * r.scores.averages[name].macro:6.2f}" for r in results)]
        for name in ("precision@1", "hit@10", "map")
        if name in names
    ]
    about = [
        ["parameters", *(f"{r.model.num_params / 1e6:.1f} M" for r in results)],
        ["embedding", *(f"{r.dim} {r.settings.layer}" for r in results)],
        ["weights", *(_weights(r) for r in results)],
        [
            "images/s",
            *("cached" if r.from_cache else f"{len(r.protocol.images) / r.embed_seconds:.1f}" for r in results),
        ],
        ["scoring, s", *(f"{r.score_seconds:.2f}" for r in results)],
    ]
    return text_table([header, *body, *macro, *about], rules=(0, len(body), len(body) + len(macro)))


def paper_table(results: Sequence[RetrievalResult]) -> str:
    """The columns of the paper's Table 1, ours above and theirs below a rule; they are not the same experiment.

    Top-1 is hit@1, Top-10 is hit@10, both in per cent; see `eval.metrics.hit_at_k`.
    """
    rows = [["", "params", "Top-1 (hit@1)", "Top-10 (hit@10)"]]
    for result in results:
        averages = result.scores.averages
        cells = [f"{100 * averages[name].micro:.2f}" if name in averages else "-" for name in ("hit@1", "hit@10")]
        rows.append([result.model.name, f"{result.model.num_params / 1e6:.1f} M", *cells])
    theirs = [[f"paper: {name}", params, f"{top1:.2f}", f"{top10:.2f}"] for name, params, top1, top10 in PAPER_TABLE]
    note = (
        "paper: Tang, Jiang, Yang (2023), COREL-10K, its own weights and split: another experiment than the rows above"
    )
    return text_table([*rows, *theirs], rules=(0, len(results))) + f"\n{note}"


def per_class_table(result: RetrievalResult) -> str:
    """One row per class: queries and their mean precision@1, R-precision and AP, in per cent."""
    shown = ("precision@1", "r_precision", "map")
    rows = [[result.model.name, "queries", *shown]]
    for entry in _per_class(result):
        cells = [f"{100 * entry['metrics'][name]:.2f}" if name in entry["metrics"] else "-" for name in shown]
        rows.append([entry["class"], str(entry["queries"]), *cells])
    return text_table(rows, rules=(0,))


def _entry(result: RetrievalResult) -> dict[str, Any]:
    model, protocol, scores, settings = result.model, result.protocol, result.scores, result.settings
    return {
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "model_args": model.model_args,
            "parameters": model.num_params,
            "embedding_layer": settings.layer,
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
        "precision": str(settings.amp_dtype or torch.float32).removeprefix("torch."),
        "metrics": {name: _average(average) for name, average in scores.averages.items()},
        "per_class": _per_class(result),
        "bootstrap": {
            "replicates": settings.replicates,
            "confidence": 0.95,
            "method": "percentile over queries; macro within classes",
            "seed": settings.seed,
        },
        "timings": {
            "embedding_seconds": round(result.embed_seconds, 3),
            "embedding_from_cache": result.from_cache,
            "optimizations": result.optimizations,
            "scoring_seconds": round(result.score_seconds, 3),
            "batch_size": settings.batch_size,
            "workers": settings.workers,
            "device": settings.device,
        },
    }


def _average(average: Average) -> dict[str, Any]:
    return {
        "micro": average.micro,
        "macro": average.macro,
        "micro_ci95": list(average.micro_interval) if average.micro_interval else None,
        "macro_ci95": list(average.macro_interval) if average.macro_interval else None,
    }


def _per_class(result: RetrievalResult) -> list[dict[str, Any]]:
    scores = result.scores
    values = {name: column[scores.scored] for name, column in scores.per_query.items()}
    return [
        {"class": result.images.class_names[label], "queries": queries, "metrics": means}
        for label, queries, means in class_means(values, scores.labels[scores.scored])
    ]


def _weights(result: RetrievalResult) -> str:
    weights = result.model.weights
    return f"{weights.kind} {weights.sha256[:8]}"


def _cell(average: Average) -> str:
    value = f"{100 * average.micro:6.2f}"
    if average.micro_interval is None:
        return value
    low, high = average.micro_interval
    return f"{value} [{100 * low:.2f}, {100 * high:.2f}]"


def text_table(rows: Sequence[Sequence[str]], rules: Sequence[int]) -> str:
    """Left-align the first column, right-align the others; a rule below each row named in `rules`."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if number in rules:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)
