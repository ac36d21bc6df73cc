"""A result as a notebook shows it: a small table and what was scored."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.results.result import RetrievalResult


def result_html(result: RetrievalResult) -> str:
    """HTML of the headline metrics with their intervals; every name from data is escaped."""
    from eval.tables.metric_tables import average_cell

    facts, protocol, averages = result.facts, result.facts.protocol, result.headline()
    head = "".join(f"<th>{escape(name)}</th>" for name in averages)
    cells = "".join(f"<td>{average_cell(average)}</td>" for average in averages.values())
    return (
        f"<table><caption>{escape(result.name)} on {escape(result.facts.data.name)}, {protocol.queries_scored} queries,"
        f" {escape(protocol.description)}; {protocol.distance}; in % [95 % interval"
        f" {escape(result.facts.intervals.meaning)}]</caption>"
        f"<thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
        + "".join(f"<p>warning: {escape(line)}</p>" for line in [*facts.data.warnings, *facts.warnings])
    )
