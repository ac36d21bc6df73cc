"""Results -> one HTML file that needs no network and says what was scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report.content import page_content
from eval.report.curves import svg_plot
from eval.report.explanation import Explanation
from eval.results.comparison import check_same_queries
from eval.results.result import HEADLINE, RetrievalResult
from eval.scoring.metrics import DEFINITIONS
from eval.tables.metric_tables import model_warnings
from timm_gam.core import DataError, write_text
from timm_gam.images import DecodeLimits, page_environment


def write_report(
    results: RetrievalResult | Sequence[RetrievalResult],
    path: str | Path,
    *,
    rank_by: str = "map",
    explanations: Sequence[Explanation | None] = (),
    notes: Sequence[str] = (),
    limits: DecodeLimits = DecodeLimits(),
) -> None:
    """Write a page of one or more results on the same queries: a file of a few MB, however many images were scored.

    Args:
        results: Their `images` are shown as thumbnails; where they have none, names stand in their place.
        path: Of the HTML file; written whole or not at all.
        rank_by: The metric by which models are ordered and compared.
        explanations: One per result, from `explain`.
        notes: What a reader must know.
        limits: What a photograph may take to decode; one that takes more is shown by its name.

    Raises:
        DataError: no results came, or they have other queries than the first, or lack `rank_by`.
        OutputError: the file cannot be written.

    >>> import eval
    >>> result = eval.score([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"])
    >>> write_report(result, "report.html")
    """
    listed = [results] if isinstance(results, RetrievalResult) else list(results)
    if not listed:
        raise DataError("no results came to write a page of; give at least one")
    explained = list(explanations) or [None] * len(listed)
    for result in listed[1:]:
        check_same_queries(listed[0], result)
    order = sorted(range(len(listed)), key=lambda i: -float(listed[i].metric(rank_by)[listed[i].scored].mean()))
    listed, explained = [listed[i] for i in order], [explained[i] for i in order]
    comparisons = [listed[0].compare(other, rank_by) for other in listed[1:]]
    content = page_content(listed, comparisons, explained, notes, limits)
    html = (
        page_environment(Path(__file__).parent / "templates")
        .get_template("report.html")
        .render(
            content=content,
            facts=listed[0].facts,
            rank_by=rank_by,
            headline=[name for name in HEADLINE if name in listed[0].averages],
            metrics=list(listed[0].averages),
            definitions=DEFINITIONS,
            plot=svg_plot(listed),
            classes=_classes(listed),
            notes=[*notes, *model_warnings(listed)],
        )
    )
    write_text(Path(path), html)


def _classes(results: Sequence[RetrievalResult]) -> list[dict[str, Any]]:
    """AP by class for each result, by the first one's, best first."""
    tables = [{entry.name: entry for entry in result.per_class()} for result in results]
    return [
        {"name": name, "queries": entry.queries, "map": [table[name].metrics["map"] for table in tables]}
        for name, entry in sorted(tables[0].items(), key=lambda item: -item[1].metrics["map"])
    ]
