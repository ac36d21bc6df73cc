"""Results -> tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eval.results.result import RetrievalResult
from eval.scoring.statistics.intervals import Average, Interval
from eval.tables.standings import standings
from timm_gam.core import markdown_text, printable
from timm_gam.models import name_some

# Tang, Jiang, Yang (2023), Table 1: COREL-10K, their weights, their split; Top-K is hit@K in per cent.
PAPER_TABLE = (
    ("Resnet50", "25.6 M", 77.25, 90.62),
    ("Resnet50 + SENet", "28.1 M", 78.08, 91.51),
    ("Resnet50 + CBAM", "28.2 M", 78.57, 91.84),
    ("Resnet50 + GAM", "151.4 M", 79.18, 91.93),
)


def summary(result: RetrievalResult, *others: RetrievalResult) -> str:
    """What was scored, in a few lines: data, protocol, what was left out, and what to know of each model.

    It stands above every table; `others` are results on the same images.

    >>> import eval
    >>> vectors, labels = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"]
    >>> print(summary(eval.score(vectors, labels)))
    data      vectors: 4 images
    protocol  leave-one-out: each vector against all others; cosine
    intervals none: there are too few images
    <BLANKLINE>
    """
    data, protocol = result.facts.data, result.facts.protocol
    fingerprint = f", fingerprint {data.fingerprint[:12]}" if data.fingerprint else ""
    lines = [
        f"data      {printable(data.name)}: {data.images} images{fingerprint}",
        f"protocol  {printable(protocol.description)}; {protocol.distance}",
    ]
    if protocol.split_rule != "none":
        lines.append(f"splits    {printable(protocol.split_rule)}")
    lines += [
        f"{'' if number else 'intervals':9} {line}" for number, line in enumerate(interval_lines([result, *others]))
    ]
    if protocol.queries_without_relevant:
        left_out = f"{protocol.queries_without_relevant} of {protocol.queries}"
        lines.append(f"left out  {left_out} queries without another image of their class")
    if data.queries_with_duplicate:
        lines.append(f"note      {data.queries_with_duplicate} queries have a byte-identical twin in their gallery")
    if (near := result.facts.near_duplicates) is not None and near.queries:
        across = f", {near.across_splits} of another split" if near.across_splits else ""
        share = 100 * near.queries / protocol.queries
        lines.append(
            f"note      {share:.{1 if share >= 0.1 else 2}f} % of queries ({near.queries}) have a near-duplicate in "
            f"their gallery{across}; see the metrics without them"
        )
    if data.unreadable:
        lines.append(f"skipped   {len(data.unreadable)} unreadable images")
    if data.left_out:
        lines.append(f"not read  {', '.join(f'{count} {printable(kind)}' for kind, count in data.left_out.items())}")
    warnings = [*data.warnings, *model_warnings([result, *others])]
    lines += [f"warning   {printable(line)}" for line in warnings]
    return "\n".join([*lines, ""])


def model_warnings(results: Sequence[RetrievalResult]) -> list[str]:
    """What makes numbers of single models say other than they seem to, each once, after the models' names."""
    models: dict[str, dict[str, None]] = {}
    for result in results:
        for line in result.facts.warnings:
            models.setdefault(line, {})[result.facts.model.name if result.facts.model else result.name] = None
    return [f"{name_some(list(names))}: {line}" for line, names in models.items()]


def model_table(results: Sequence[RetrievalResult], rank_by: str = "map") -> str:
    """One row a model, best first: the headline metrics in per cent, the interval of `rank_by`, and the model's size.

    Models with the same rank are tied: no paired permutation test tells them apart. One model alone is shown by
    `metric_table`.

    Raises:
        DataError: the results have other queries than the first, or lack the metric.
    """
    if len(results) == 1:
        return metric_table(results)
    header, *rows = _standing_rows(results, rank_by)
    return text_table([header, *rows], rules=(0,)) + f"\nin %, {_note(results, rank_by)}"


def result_html(result: RetrievalResult) -> str:
    """HTML of the headline metrics with their intervals, as a notebook shows a result; names from data are escaped."""
    facts, protocol, averages = result.facts, result.facts.protocol, result.headline()
    head = "".join(f"<th>{escape(name)}</th>" for name in averages)
    cells = "".join(f"<td>{average_cell(average)}</td>" for average in averages.values())
    return (
        f"<table><caption>{escape(result.name)} on {escape(facts.data.name)}, {protocol.queries_scored} queries,"
        f" {escape(protocol.description)}; {protocol.distance}; in % [95 % interval"
        f" {escape(facts.intervals.meaning)}]</caption>"
        f"<thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
        + "".join(f"<p>warning: {escape(line)}</p>" for line in [*facts.data.warnings, *facts.warnings])
    )


def markdown_table(results: Sequence[RetrievalResult], rank_by: str = "map") -> str:
    """The same as Markdown, with what was scored above it."""
    header, *rows = _standing_rows(results, rank_by)
    lines = [*(f"    {line}" for line in summary(*results).splitlines()), ""] if results else []
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join([markdown_text(row[0]), *row[1:]])} |" for row in rows]
    return "\n".join([*lines, "", f"In %, {_note(results, rank_by)}."]) + "\n"


def _note(results: Sequence[RetrievalResult], rank_by: str) -> str:
    known = any(result.averages[rank_by].micro_interval is not None for result in results)
    return (
        f"micro averages; ranked by {rank_by}{', [95 % interval]' if known else ''}; models of one rank are tied "
        "(paired permutation test over queries, Holm, p < 0.05 would tell them apart)"
    )


def _standing_rows(results: Sequence[RetrievalResult], rank_by: str) -> list[list[str]]:
    names = [name for name in results[0].headline() if name != rank_by]
    near = any(result.facts.near_duplicates and result.facts.near_duplicates.queries for result in results)
    rows = [["model", "rank", rank_by, *(["without near"] if near else []), *names, "parameters", "images/s"]]
    for standing in standings(results, rank_by):
        averages = standing.result.averages
        cells = [_without(standing.result, rank_by)] if near else []
        cells += [f"{100 * averages[name].micro:.2f}" for name in names]
        rank, about = f"{standing.rank}{' =' if standing.tied else ''}", _about(standing.result)
        first = [standing.result.name, rank, average_cell(averages[rank_by])]
        rows.append([*first, *cells, about["parameters"], about["images/s"]])
    return rows


def metric_table(results: Sequence[RetrievalResult], all_metrics: bool = False) -> str:
    """Models side by side: one row per metric, one column per model; per cent, with 95 % intervals.

    Args:
        results: One or more.
        all_metrics: Every metric and the macro averages, not only the headline ones.

    >>> import eval
    >>> vectors, labels = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["cat", "cat", "dog", "dog"]
    >>> print(metric_table([eval.score(vectors, labels, name="ours")]))
    micro average, %    ours
    ----------------  ------
    hit@1             100.00
    ...
    """
    names = list(results[0].averages if all_metrics else results[0].headline())
    header = ["micro average, %", *(result.name for result in results)]
    body = [[name, *(average_cell(result.averages[name]) for result in results)] for name in names]
    near = [
        [f"{name} without near-duplicates", *(_without(result, name) for result in results)]
        for name in (names if all_metrics else names[-1:])
        if any(result.facts.near_duplicates and result.facts.near_duplicates.queries for result in results)
    ]
    macro = [
        [f"{name} (macro)", *(f"{100 * r.averages[name].macro:6.2f}" for r in results)]
        for name in ("precision@1", "hit@10", "map")
        if all_metrics and name in names
    ]
    about = [[name, *(_about(r)[name] for r in results)] for name in _about(results[0])]
    rules = sorted({0, len(body), len(body) + len(near), len(body) + len(near) + len(macro)})
    return text_table([header, *body, *near, *macro, *about], rules=rules)


def paper_table(results: Sequence[RetrievalResult]) -> str:
    """The columns of the paper's Table 1, ours above and theirs below a rule; they are not the same experiment.

    Top-1 is hit@1, Top-10 is hit@10, both in per cent; see `eval.scoring.metrics.hit_at_k`.
    """
    rows = [["", "params", "Top-1 (hit@1)", "Top-10 (hit@10)"]]
    for result in results:
        averages = result.averages
        cells = [f"{100 * averages[name].micro:.2f}" if name in averages else "-" for name in ("hit@1", "hit@10")]
        rows.append([result.name, _about(result)["parameters"], *cells])
    theirs = [[f"paper: {name}", params, f"{top1:.2f}", f"{top10:.2f}"] for name, params, top1, top10 in PAPER_TABLE]
    note = (
        "paper: Tang, Jiang, Yang (2023), COREL-10K, its own weights and split: another experiment than the rows above"
    )
    return text_table([*rows, *theirs], rules=(0, len(results))) + f"\n{note}"


def per_class_table(result: RetrievalResult) -> str:
    """One row per class: queries and their mean precision@1, R-precision and AP, in per cent."""
    shown = ("precision@1", "r_precision", "map")
    rows = [[result.name, "queries", *shown]]
    for entry in result.per_class():
        cells = [f"{100 * entry.metrics[name]:.2f}" if name in entry.metrics else "-" for name in shown]
        rows.append([entry.name, str(entry.queries), *cells])
    return text_table(rows, rules=(0,))


def _without(result: RetrievalResult, name: str) -> str:
    """A metric without near-duplicates of the query, in per cent."""
    near = result.facts.near_duplicates
    return f"{100 * near.metrics[name].micro:6.2f}" if near is not None and name in near.metrics else "-"


def _about(result: RetrievalResult) -> dict[str, str]:
    """What stands beside the metrics of a model, "-" where it is not known."""
    model, weights, timings = result.facts.model, result.facts.weights, result.facts.timings
    speed = f"{timings.images_embedded / timings.embedding_seconds:.1f}" if timings.embedding_seconds else "-"
    return {
        "parameters": f"{model.parameters / 1e6:.1f} M" if model else "-",
        "embedding": f"{model.embedding_dim} {model.embedding_layer}" if model else "-",
        "weights": f"{weights.kind} {weights.sha256[:8]}" if weights else "-",
        "images/s": "cached" if timings.embedding_from_cache else speed,
        "scoring, s": f"{timings.scoring_seconds:.2f}",
    }


def interval_lines(results: Sequence[RetrievalResult]) -> list[str]:
    """What they are for, with the names of those that it holds for where results differ."""
    names: dict[str, list[str]] = {}
    for result in results:
        names.setdefault(_interval_line(result), []).append(result.name)
    return list(names) if len(names) == 1 else [f"{name_some(of)}: {line}" for line, of in names.items()]


def _interval_line(result: RetrievalResult) -> str:
    about = result.facts.intervals
    if about.population == "none":
        return "none"
    if all(average.micro_interval is None for average in result.averages.values()):
        return f"none: there are too few {about.population}"
    return f"95 %, {about.meaning}"


def percent(value: float, interval: Interval | None, form: str = ".2f") -> str:
    """A share and its 95 % interval in per cent, or a difference in points where `form` has a sign.

    >>> percent(0.5, (0.25, 0.75)), percent(-0.01, None, "+.1f")
    ('50.00 [25.00, 75.00]', '-1.0')
    """
    return f"{100 * value:{form}}" + ("" if interval is None else f" {bounds(interval, form)}")


def bounds(interval: Interval | None, form: str = ".2f") -> str:
    """An interval in per cent, "-" where there is none."""
    return "-" if interval is None else f"[{100 * interval[0]:{form}}, {100 * interval[1]:{form}}]"


def average_cell(average: Average) -> str:
    """A micro average in per cent, with its interval where it has one."""
    return percent(average.micro, average.micro_interval)


def text_table(rows: Sequence[Sequence[str]], rules: Sequence[int]) -> str:
    """Left-align the first column, right-align the others; a rule below each row in `rules`; names are escaped.

    >>> print(text_table([["metric", "ours"], ["map", "93.10"]], rules=[0]))
    metric   ours
    ------  -----
    map     93.10
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if number in rules:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)
