"""Results -> a JSON document for programs (schema: eval/results/results.schema.json)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.results.document import SCHEMA, AverageRecord, Document, Entry
from eval.results.result import RetrievalResult
from eval.scoring.metrics import DEFINITIONS
from eval.scoring.statistics.intervals import Average
from timm_gam.core import DataError, hardware, read_json, versions


def document(results: Sequence[RetrievalResult], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON document of a run: common facts once, one self-contained entry per model.

    Args:
        results: Scored models.
        notes: What a reader must know, such as why the embedded default was used.

    >>> import eval
    >>> result = eval.score([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"])
    >>> document([result])["results"][0]["metrics"]["map"]["micro"]
    1.0
    """
    weights = [result.facts.weights for result in results]
    seeds = [one.reference for one in weights if one is not None and one.kind == "random"]
    content = Document.model_validate(
        {
            "schema": SCHEMA,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "notes": list(notes),
            "seed": int(seeds[0].removeprefix("seed ")) if seeds else 0,
            "definitions": DEFINITIONS,
            "versions": versions(),
            "hardware": hardware(),
            "results": [entry(result) for result in results],
        }
    )
    return content.model_dump(mode="json", by_alias=True)


def read_document(path: Path) -> Document:
    """A document of `python -m eval.retrieval`.

    Raises:
        DataError: no such file, or none.

    >>> import eval, json
    >>> result = eval.score([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"])
    >>> _ = Path("record.json").write_text(json.dumps(document([result])))
    >>> read_document(Path("record.json")).results[0].metrics["map"].micro
    1.0
    """
    return read_json(path, Document, DataError, f"name a record of python -m eval.retrieval ({SCHEMA})")


def entry(result: RetrievalResult) -> Entry:
    """One result as a record that is complete in itself."""
    metrics = {name: average_record(average) for name, average in result.averages.items()}
    return Entry(**dict(result.facts), metrics=metrics, per_class=result.per_class())


def average_record(average: Average) -> AverageRecord:
    """An average as it stands in a document."""
    return AverageRecord(
        micro=average.micro,
        macro=average.macro,
        micro_ci95=average.micro_interval,
        macro_ci95=average.macro_interval,
    )
