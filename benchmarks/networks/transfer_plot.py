"""The picture of docs/EVIDENCE.md from the committed records: mAP of each gated run less the plain run of its seed.

python benchmarks/networks/transfer_plot.py        # writes docs/images/transfer.png
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PANELS = {
    "corel5k": "tiny, 64 px, Corel-5K",
    "coreldb": "tiny, 64 px, CorelDB",
    "coreldb_resnet50_runs": "ResNet-50, 96 px, CorelDB",
}
ARMS = [f"{kind}-{start}" for kind in ("se", "cbam", "gam") for start in ("identity", "usual")]
COLOURS = {"identity": "#1f6feb", "usual": "#b35900"}


def main() -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9.6, 2.6), sharey=True, layout="constrained")
    for panel, (name, title) in zip(panels, PANELS.items(), strict=True):
        packed = json.loads((ROOT / "benchmarks" / "results" / "transfer" / f"{name}.json").read_text(encoding="utf-8"))
        runs = [run for run in packed["runs"] if run["kind"] == "final" and "test" in run]
        maps = {(run["arm"], run["seed"]): 100 * float(np.mean(run["test"]["map"])) for run in runs}
        for row, arm in enumerate(reversed(ARMS)):
            gaps = [value - maps["plain", seed] for (of, seed), value in maps.items() if of == arm]
            colour = COLOURS[arm.partition("-")[2]]
            panel.plot(gaps, [row] * len(gaps), "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
            panel.plot(np.mean(gaps), row, "|", color=colour, markersize=14, markeredgewidth=2)
        panel.axvline(0, color="#666666", linewidth=0.8)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
    panels[0].set_yticks(range(len(ARMS)), [_label(arm) for arm in reversed(ARMS)])
    figure.supxlabel("mAP less the plain network's of the same seed, points (dots: seeds; bars: means)", fontsize=8)
    path = ROOT / "docs" / "images" / "transfer.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path.relative_to(ROOT)}")


def _label(arm: str) -> str:
    kind, _, start = arm.partition("-")
    return f"{kind.upper()}, {start} gates"


if __name__ == "__main__":
    main()
