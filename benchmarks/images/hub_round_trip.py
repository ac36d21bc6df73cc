"""Publish and pull real sizes through a loopback Hub: a whole data set, and a full-size resnet50_gam.

    python benchmarks/images/hub_round_trip.py model --record benchmarks/results/hub_model.json
    python benchmarks/images/hub_round_trip.py dataset --data-dir coreldb \\
        --checkpoint mobilenetv2_100.onnxzoo7.safetensors \\
        --folder-record benchmarks/results/coreldb_mobilenetv2_100.json --record benchmarks/results/hub_dataset.json

Every step is a process of its own, the command a user types; its peak memory is the kernel's figure for that process
(resident pages, those of mapped files and of the libraries included). The Hub is `tests/loopback_hub`: real sockets, no
network. The model is untrained; the data set is scored from the Hub and must give the folder's metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.loopback_hub import TOKEN, LoopbackHub, serve_hub  # noqa: E402

MAKE = """
import timm, timm_gam, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model("resnet50_gam").state_dict(), "{file}")
"""
PULL = """
import timm, timm_gam
full = {"hf_hub_id": "timm-gam/resnet50_gam.full", "num_classes": 1000}
model = timm.create_model("resnet50_gam", pretrained=True, num_classes=1000, pretrained_cfg_overlay=full)
print(sum(p.numel() for p in model.parameters()))
"""
IMPORT = "import timm, timm_gam"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "dataset"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="of mobilenetv2_100")
    parser.add_argument("--folder-record", type=Path)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, serve_hub(Path(temporary) / "hub") as hub:
        work = Path(temporary)
        steps = model_steps(hub, work) if args.what == "model" else dataset_steps(hub, work, args)
    record = {**steps, "cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps(record, indent=1))
    if args.record is not None:
        args.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def model_steps(hub: LoopbackHub, work: Path) -> dict[str, Any]:
    checkpoint = work / "checkpoint.safetensors"
    step(hub, work, "-c", MAKE.format(file=checkpoint))
    size = checkpoint.stat().st_size
    steps = {
        "import_only": step(hub, work, "-c", IMPORT),
        "publish": step(hub, work, "-m", "hub.publish", "resnet50_gam.full", "--checkpoint", str(checkpoint)),
        "pull": step(hub, work, "-c", PULL),
        "pull_from_cache_offline": step(hub, work, "-c", PULL, HF_HUB_OFFLINE="1"),
    }
    most = max(entry["peak_bytes"] for entry in steps.values())
    return {"file_bytes": size, "steps": steps, "highest_peak_over_file": round(most / size, 3)}


def dataset_steps(hub: LoopbackHub, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    results = work / "results.json"
    score = ["--model", "mobilenetv2_100", "--checkpoint", str(args.checkpoint), "--dataset", "timm-gam/corel"]
    steps = {
        "publish": step(hub, work, "-m", "hub.dataset", str(args.data_dir), "--repo", "timm-gam/corel"),
        "score_from_hub": step(hub, work, "-m", "eval.retrieval", *score, "--results-file", str(results)),
    }
    ours = json.loads(results.read_text(encoding="utf-8"))["results"][0]
    theirs = json.loads(args.folder_record.read_text(encoding="utf-8"))["results"][0]
    differences = {
        f"{name} {kind}": abs(ours["metrics"][name][kind] - theirs["metrics"][name][kind])
        for name in theirs["metrics"]
        for kind in ("micro", "macro")
    }
    return {
        "images": ours["data"]["images"],
        "file_bytes": sum(e.size for e in hub.head("datasets", "timm-gam/corel").files.values()),
        "steps": steps,
        "folder_record": args.folder_record.name,
        "same_fingerprint": ours["data"]["fingerprint"] == theirs["data"]["fingerprint"],
        "metrics_compared": len(differences),
        "largest_metric_difference": max(differences.values()),
    }


def step(hub: LoopbackHub, work: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run Python with these arguments; its wall time and its own peak memory."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(work / "home"),
           "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
           **environment}  # fmt: skip
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], env)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {arguments}")
    return {"seconds": round(time.perf_counter() - began, 1), "peak_bytes": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
