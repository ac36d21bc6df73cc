"""One process against several under torchrun: every metric must be equal to the last digit.

    python benchmarks/scoring/sharded.py --data-dir coreldb --checkpoint mobilenetv2_100.onnxzoo7.safetensors \\
        --write benchmarks/results/sharded.json

Each number of processes has one thread per process, an empty cache folder of its own, and embeds every image. Times
are of processes that share one machine's cores, and say nothing of several machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timm_gam.core import hardware, versions, write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="a folder of class folders of images")
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--checkpoint", required=True, help="safetensors weights of the model")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the record here")
    args = parser.parse_args()
    options = ["--model", args.model, "--checkpoint", args.checkpoint, "--data-dir", args.data_dir]
    options += ["--img-size", str(args.img_size), "-j", "1"]
    entries = {count: evaluate(count, options) for count in args.processes}
    first = entries[args.processes[0]]
    runs = []
    for count, entry in entries.items():
        timings = {name: entry["timings"][name] for name in ("embedding_seconds", "scoring_seconds", "images_embedded")}
        equal = all(entry[part] == first[part] for part in ("metrics", "per_class", "data", "protocol"))
        runs.append({"processes": count, "equal_to_the_first": equal, **timings})
        print(runs[-1])
    record: dict[str, Any] = {
        "command": "python benchmarks/scoring/sharded.py --data-dir coreldb --checkpoint FILE",
        "versions": versions(),
        "hardware": hardware(),
        "model": first["model"],
        "weights": first["weights"],
        "data": first["data"],
        "img_size": args.img_size,
        "metrics_compared": len(first["metrics"]),
        "map": first["metrics"]["map"],
        "runs": runs,
    }
    if args.write is not None:
        write_json(args.write, record)
    return 0 if all(run["equal_to_the_first"] for run in runs) else 1


def evaluate(processes: int, options: list[str]) -> dict[str, Any]:
    """The entry of the results file of one run."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [*launcher, "-m", "eval.retrieval", *options, "--results-file", str(out)]
        command += ["--cache-dir", f"{folder}/cache"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        entry: dict[str, Any] = json.loads(out.read_text())["results"][0]
        return entry


if __name__ == "__main__":
    sys.exit(main())
