"""A result as a notebook shows it: a small table and what was scored."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.results.result import RetrievalResult
    from eval.scoring.statistics.intervals import Average


def result_html(result: RetrievalResult) -> str:
    """HTML of the headline metrics with their intervals; every name from data is escaped."""
    facts, protocol, averages = result.facts, result.facts.protocol, result.headline()
    head = "".join(f"<th>{escape(name)}</th>" for name in averages)
    cells = "".join(f"<td>{_cell(average)}</td>" for average in averages.values())
    return (
        f"<table><caption>{escape(result.name)} on {escape(result.facts.data.name)}, {protocol.queries_scored} queries,"
        f" {escape(protocol.description)}; {protocol.distance}; in % [95 % interval"
        f" {escape(result.facts.intervals.meaning)}]</caption>"
        f"<thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
        + "".join(f"<p>warning: {escape(line)}</p>" for line in [*facts.data.warnings, *facts.warnings])
    )


def _cell(average: Average) -> str:
    if average.micro_interval is None:
        return f"{100 * average.micro:.2f}"
    low, high = average.micro_interval
    return f"{100 * average.micro:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
