"""The leaderboard as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.leaderboard.runs import Run
from eval.tables.metric_tables import model_warnings
from eval.tables.standings import Standing
from timm_gam.core import write_text
from timm_gam.images import page_environment

_COLUMNS = ("map", "hit@1", "hit@10", "precision@10", "map@r")


def write_page(path: Path, runs: Sequence[Run], order: Sequence[Standing], metric: str) -> None:
    """Write the page: models in order with rank intervals and groups, and those that could not be scored.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [_row(one, order, metric) for one in order]
    first = order[0].result.facts
    text = (
        page_environment(Path(__file__).parent / "templates")
        .get_template("leaderboard.html")
        .render(
            metric=metric,
            columns=[name for name in _COLUMNS if name in order[0].result.averages],
            rows=rows,
            skipped=[run for run in runs if run.result is None],
            data=first.data,
            protocol=first.protocol,
            intervals=first.intervals.meaning,
            warnings=model_warnings([one.result for one in order]),
        )
    )
    write_text(path, text)


def _row(one: Standing, order: Sequence[Standing], metric: str) -> dict[str, object]:
    result = one.result
    model, prep = result.facts.model, result.facts.preprocessing
    interval = result.averages[metric].micro_interval
    top = max(other.value for other in order) or 1.0
    return {
        "standing": one,
        "values": {name: 100 * average.micro for name, average in result.averages.items()},
        "interval": None if interval is None else tuple(100 * end for end in interval),
        "share": 100 * one.value / top,
        "parameters": "" if model is None else f"{model.parameters / 1e6:.1f} M",
        "pixels": "" if prep is None else str(prep.input_size[-1]),
        "dim": "" if model is None else str(model.embedding_dim),
    }
