"""Loss and retrieval over epochs as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from timm_gam.core import atomic_path


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]], title: str) -> bool:
    """Write the picture from rows of metrics.csv.

    Returns:
        False where matplotlib is not installed and nothing was drawn.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4))
    FigureCanvasAgg(figure)
    # A layout of its own, by matplotlib, takes as long again as the picture.
    loss, retrieval = figure.subplots(1, 2, gridspec_kw={"left": 0.07, "right": 0.98, "bottom": 0.13, "top": 0.92})
    loss.plot([row["epoch"] for row in rows], [row["train_loss"] for row in rows])
    loss.set(xlabel="epoch", ylabel="training loss", title=title)
    validated = [row for row in rows if "val_map" in row]
    for name in ("val_map", "val_hit@1", "val_precision@10"):
        retrieval.plot(
            [row["epoch"] for row in validated], [100 * row[name] for row in validated], label=name.removeprefix("val_")
        )
    retrieval.set(xlabel="epoch", ylabel="%", title="validation, leave-one-out")
    retrieval.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return True
