"""Finished runs -> Table 1: scored on the test split, compared, written as markdown and JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.evaluation.evaluator import score_test
from eval.results.facts import Model, PreprocessingRecord, Weights
from eval.results.record import read_document
from eval.results.result import RetrievalResult
from eval.scoring.statistics.significance import compare, summarise
from eval.tables.metric_tables import PAPER_TABLE, bounds, percent
from timm_gam.core import DataError, hardware, versions, write_text
from timm_gam.models import count_macs, images_per_second
from timm_gam.train import DATA_KEYS, Recipe, RunFolder, read_training_data

Runs = dict[str, list[tuple[RunFolder, Recipe]]]
"""Name of a row -> its finished runs, one per seed."""

METRICS = ("hit@1", "hit@10", "precision@10", "map")
_PAPER_ROW = {"se": 1, "cbam": 2, "gam": 3}  # the plain network's is the first


def write_table(output: Path, runs: Runs, device: str) -> str:
    """Score and compare finished runs; write table1.json and table1.md into `output`.

    Every run is scored on its own images, which must be the same for all. Embeddings are kept in `output`/embeddings,
    so that the next table costs seconds.

    Returns:
        The markdown.

    Raises:
        TimmGamError: images or weights cannot be had, or the runs' test splits or the images that seeds of a row were
            trained on differ.
    """
    results: dict[str, list[RetrievalResult]] = {}
    read = functools.cache(read_training_data)
    costs: dict[str, dict[str, Any]] = {}
    for name, members in runs.items():
        refuse_other_training(folder for folder, _ in members)
        for folder, recipe in members:
            data = read(Recipe(**{name: getattr(recipe, name) for name in DATA_KEYS}))
            test, kept = data.split.needed_test(), output / "embeddings"
            result = score_test(folder, recipe, data.images, test, device=device, cache_folder=kept)
            _refuse_other_test(folder, result)
            results.setdefault(name, []).append(result)
        costs[name] = _cost(results[name][0], device)
    document = _document(runs, results, costs)
    markdown = _markdown(document)
    for name, text in (("table1.json", json.dumps(document, indent=1) + "\n"), ("table1.md", markdown)):
        write_text(output / name, text)
    return markdown


def refuse_other_training(folders: Iterable[RunFolder]) -> None:
    """Make sure that runs were trained on the same images.

    Raises:
        DataError: they were not.
    """
    trained_on = {str(folder.read_json(folder.data).get("trained_on")): folder.path.name for folder in folders}
    trained_on.pop("None", None)  # of an earlier version
    if len(trained_on) > 1:
        first, other = list(trained_on.values())[:2]
        raise DataError(
            f"'{first}' and '{other}' were not trained on the same images: give both the same, or train all anew in "
            "another --output"
        )


def _refuse_other_test(folder: RunFolder, result: RetrievalResult) -> None:
    """Where images came or went, those tested on now may be among those trained on."""
    tested_on = read_document(folder.evaluation).results[0].data.fingerprint
    if result.facts.data.fingerprint != tested_on:
        raise DataError(
            f"'{folder.path.name}' was tested on other images than '{result.facts.data.name}' has now: give it the "
            "same, or train all anew in another --output"
        )


def _shared_labels(results: dict[str, list[RetrievalResult]]) -> NDArray[np.int64]:
    fingerprints = {result.facts.data.fingerprint: name for name, members in results.items() for result in members}
    if len(fingerprints) > 1:
        raise DataError(
            f"the runs were not tested on the same images (see {' and '.join(sorted(set(fingerprints.values())))}); "
            "a paired comparison needs one test split"
        )
    first = next(iter(results.values()))[0]
    return first.query_labels[first.scored]


def _cost(result: RetrievalResult, device: str) -> dict[str, Any]:
    import timm

    from timm_gam.models import load_model

    model, _, preprocessing = _network(result)
    size = preprocessing.input_size
    loaded = load_model(model.architecture, pretrained=False)
    shapes = timm.create_model(model.architecture, num_classes=len(result.class_names), device="meta")
    return {
        "parameters": model.parameters,
        "gmacs": count_macs(shapes, size) / 1e9,
        "images_per_second": round(images_per_second(loaded.model, size, device), 1),
    }


def _network(result: RetrievalResult) -> tuple[Model, Weights, PreprocessingRecord]:
    facts = result.facts
    assert facts.model is not None and facts.weights is not None and facts.preprocessing is not None  # of a run
    return facts.model, facts.weights, facts.preprocessing


def _document(
    runs: Runs,
    results: dict[str, list[RetrievalResult]],
    costs: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    first, labels = next(iter(results.values()))[0], _shared_labels(results)
    values = {
        metric: {name: np.stack([r.per_query[metric][r.scored] for r in of]) for name, of in results.items()}
        for metric in METRICS
    }
    rows = []
    for name, members in runs.items():
        architecture = _network(results[name][0])[0].architecture
        paper = PAPER_TABLE[_PAPER_ROW.get(architecture.rpartition("_")[2], 0)] if name == architecture else None
        rows.append(
            {
                "name": name,
                "architecture": architecture,
                "seeds": [recipe.seed for _, recipe in members],
                **costs[name],
                "metrics": {metric: asdict(summarise(of[name], labels)) for metric, of in values.items()},
                "paper": dict(zip(("model", "parameters", "hit@1", "hit@10"), paper, strict=True)) if paper else None,
                "weights": [_network(result)[1].sha256 for result in results[name]],
                "start": [folder.read_json(folder.data)["start"] for folder, _ in members],
            }
        )
    return {
        "schema": "timm-gam/table1/1",
        "data": {
            "name": first.facts.data.name,
            "test_fingerprint": first.facts.data.fingerprint,
            "test_images": first.facts.protocol.queries,
            "classes": len(first.class_names),
            "split_rule": first.facts.protocol.split_rule,
        },
        "protocol": first.facts.protocol.description,
        "input_size": list(_network(first)[2].input_size),
        "epochs": sorted({recipe.epochs for members in runs.values() for _, recipe in members}),
        "rows": rows,
        "differences": {metric: [asdict(d) for d in compare(of, labels)] for metric, of in values.items()},
        "versions": versions(),
        "hardware": hardware(),
    }


def _markdown(document: dict[str, Any]) -> str:
    data = document["data"]
    lines = [
        f"{data['name']}: {data['test_images']} test images, {data['classes']} classes; {document['protocol']}; "
        f"input {document['input_size'][1]} px; {' or '.join(str(n) for n in document['epochs'])} epochs. "
        "In %: mean over runs ± standard deviation over runs [95 % interval for other queries].",
        "",
        "| model | runs | params | GMACs | img/s | Top-1 (hit@1) | Top-10 (hit@10) | precision@10 | mAP | paper Top-1 |"
        " paper Top-10 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        paper = row["paper"]
        cells = [
            f"`{row['name']}`",
            str(len(row["seeds"])),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['gmacs']:.3f}",
            f"{row['images_per_second']:.0f}",
            *(_cell(row["metrics"][metric]) for metric in METRICS),
            *(f"{paper[name]:.2f}" if paper else "-" for name in ("hit@1", "hit@10")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The paper's columns are Tang, Jiang, Yang (2023): ResNet50 on COREL-10K, their weights and split, another "
        "experiment.",
        "",
        "| difference, points | " + " | ".join(METRICS) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for i, pair in enumerate(document["differences"][METRICS[0]]):
        cells = [_difference(document["differences"][metric][i]) for metric in METRICS]
        lines.append(f"| `{pair['a']}` - `{pair['b']}` | {' | '.join(cells)} |")
    least = max((d["p_runs_least"] for d in document["differences"][METRICS[0]]), default=1.0)
    lines += [
        "",
        "p over queries / over runs, two-sided permutation tests, Holm-adjusted over the pairs. The first takes the "
        "weights as given; the second asks whether another training would differ, and with so many runs its "
        f"least value before adjustment is {least:.3g}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(summary: dict[str, Any]) -> str:
    spread = "" if summary["spread"] is None else f" ± {100 * summary['spread']:.2f}"
    return f"{100 * summary['mean']:.2f}{spread} {bounds(summary['interval'])}"


def _difference(d: dict[str, Any]) -> str:
    return f"{percent(d['mean'], d['interval'], '+.2f')}, p {d['p_queries']:.2g} / {d['p_runs']:.2g}"
