"""The tables of docs/SCALE.md, from the committed records: what a million images and more cost on the measured machine.

    python benchmarks/scoring/scale_table.py

Embedding hours are images over the measured images per second of resnet50_gam. Exact search and index sizes are those
measured at a million vectors of 512 dimensions, in proportion to the number of images; what is not in a record is not
in the tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
SIZES = {"1 M": 10**6, "100 M": 10**8, "1 B": 10**9}


def main() -> None:
    inference, scoring = read("inference"), read("scoring_scale_epyc")
    settings = inference["network"]["settings"]
    batch = inference["batch_size"]
    million = scoring["sizes"]["1000000"]
    print("| images | embedding, float32 | bfloat16 | vectors of 2048 | vectors of 512 | exact scores, 512 |")
    print("|---|---|---|---|---|---|")
    for name, count in SIZES.items():
        hours = [count * settings[key]["median"] / batch / 3600 for key in ("optimized", "optimized, bfloat16")]
        gigabytes = " | ".join(f"{count * dim * 4 / 1e9:,.0f} GB" for dim in (2048, 512))
        scored = million["seconds"] * count / 10**6 / 60
        print(f"| {name} | {hours[0]:,.0f} h | {hours[1]:,.0f} h | {gigabytes} | {scored:,.0f} min |")
    for name in ("approximate", "approximate_local"):
        print(f"\n{name}\n")
        print("| index, 1 M x 512 | recall@10 | queries/s | times exact | build | size | parameters |")
        print("|---|---|---|---|---|---|---|")
        for one in read(name)["results"]:
            low, high = one["recall@10_ci95"]
            print(
                f"| `{one['factory']}` | {one['recall@10']:.3f} [{low:.3f}, {high:.3f}] "
                f"| {one['queries_per_second']:,.0f} | {one['times_exact']:.1f} | {one['build_seconds']:.0f} s "
                f"| {one['bytes'] / 1e9:.2f} GB | {one['parameters']} |"
            )


def read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


if __name__ == "__main__":
    main()
