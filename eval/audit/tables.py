"""An audit -> tables for people and a JSON document for programs."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any

from eval.audit.audit import Audit
from eval.tables.metric_tables import bounds, text_table
from timm_gam.core import printable

_WIDTH = 110


def tables(audit: Audit) -> str:
    """The findings, our metrics with intervals and ranges over ties, and what each library would print."""
    head = f"{audit.name}: {audit.rows} rows, {audit.ranked} of {audit.queries} judged queries ranked"
    parts = [head, _findings(audit), _measures(audit), _conventions(audit)]
    return "\n\n".join(parts)


def document(audit: Audit) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "schema": "timm-gam/audit/1",
        "ranking": audit.name,
        "rows": audit.rows,
        "queries": audit.queries,
        "queries_ranked": audit.ranked,
        "findings": [asdict(finding) for finding in audit.findings],
        "metrics": {name: {**asdict(one), "ci95": audit.intervals[name]} for name, one in audit.measures.items()},
        "conventions": [asdict(one) for one in audit.conventions],
    }


def _findings(audit: Audit) -> str:
    if not audit.findings:
        return "nothing found: no self-matches, ties, duplicates, truncation or missing queries"
    lines = []
    for finding in audit.findings:
        head = f"{finding.level.upper():<6} {finding.check}: "
        lines += textwrap.wrap(head + printable(finding.text), _WIDTH, subsequent_indent=" " * 7)
    return "\n".join(lines)


def _measures(audit: Audit) -> str:
    rows = [["metric, %", "mean", "95 % over queries", "over orders of ties"]]
    for name, one in audit.measures.items():
        ties = f"{100 * one.least:.2f} to {100 * one.most:.2f}" if one.range else "-"
        rows.append([name, f"{100 * one.mean:.2f}", bounds(audit.intervals[name]), ties])
    return text_table(rows, rules=(0,))


def _conventions(audit: Audit) -> str:
    rows = [["as printed by", "name", "%", "what it is"]]
    rows += [[one.library, one.name, f"{100 * one.value:.2f}", one.definition] for one in audit.conventions]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{row[0].ljust(widths[0])}  {row[1].ljust(widths[1])}  {row[2].rjust(widths[2])}  {row[3]}" for row in rows
    ]
    return "\n".join(lines)
