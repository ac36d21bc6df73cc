"""Results -> a file in the format that its suffix names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.results.record import document
from eval.results.result import RetrievalResult
from eval.tables.metric_tables import markdown_table
from timm_gam.core import OutputError, atomic_path, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

RESULTS_SUFFIXES = (".json", ".csv", ".md", ".parquet")
PER_QUERY_SUFFIXES = (".csv", ".parquet")


def check_suffix(path: Path, legal: Sequence[str]) -> None:
    """Raise OutputError where a path's suffix names no format that can be written."""
    if path.suffix.lower() not in legal:
        raise OutputError(f"'{path}' has the suffix '{path.suffix}'; legal: {', '.join(legal)}")


def write_results(results: Sequence[RetrievalResult], path: Path, rank_by: str, notes: Sequence[str] = ()) -> None:
    """Write results as .json (the whole document), .csv or .parquet (one row a model), or .md (a table), whole or not.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    check_suffix(path, RESULTS_SUFFIXES)
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_json(path, document(results, notes))
        return
    if suffix == ".md":
        write_text(path, markdown_table(results, rank_by))
        return
    import pandas as pd  # comes with datasets

    _write_table(pd.DataFrame([flat_row(result) for result in results], dtype=object), path)


def flat_row(result: RetrievalResult) -> dict[str, Any]:
    """One result as a row of a table: what was scored, what to know of it, and every metric in [0, 1].

    Beside a metric stand the bounds of its interval.
    """
    facts = result.facts
    row: dict[str, Any] = {
        "model": result.name,
        "weights": facts.weights.reference if facts.weights else None,
        "weights_sha256": facts.weights.sha256 if facts.weights else None,
        "parameters": facts.model.parameters if facts.model else None,
        "img_size": facts.preprocessing.input_size[1] if facts.preprocessing else None,
        "embedding_dim": facts.model.embedding_dim if facts.model else None,
        "data": facts.data.name,
        "fingerprint": facts.data.fingerprint,
        "protocol": facts.protocol.description,
        "distance": facts.protocol.distance,
        "queries": facts.protocol.queries_scored,
        "intervals": facts.intervals.population,
        "trained_on": facts.training_images.trained if facts.training_images else None,
        "warnings": "; ".join([*facts.data.warnings, *facts.warnings]),
    }
    for name, average in result.averages.items():
        low, high = average.micro_interval or (None, None)
        row |= {name: average.micro, f"{name}_low": low, f"{name}_high": high}
    if (near := facts.near_duplicates) is not None:
        row["queries_with_near_duplicate"] = near.queries
        row |= {f"{name}_without_near": means.micro for name, means in near.metrics.items()}
    return row


def write_per_query(results: Sequence[RetrievalResult], path: Path) -> None:
    """Write one row a query and model as .csv or .parquet: id, class, every metric, the nearest image.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    import pandas as pd

    check_suffix(path, PER_QUERY_SUFFIXES)
    frames = [result.to_pandas().reset_index() for result in results]
    for frame, result in zip(frames, results, strict=True):
        frame.insert(0, "model", result.name)
    _write_table(pd.concat(frames, ignore_index=True), path)


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
