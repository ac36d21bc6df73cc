"""Export every variant at 224 px as its users would, and record how far each file is from the eager model.

    python benchmarks/networks/export.py --record benchmarks/results/export.json
    python benchmarks/networks/export.py --mobilenet FILE.safetensors --record benchmarks/results/export.json

Without weights of their own the networks are random. Their batch norms have random scales, so that no residual branch
is zero as it would be at initialisation, and the statistics of one batch of noise. `rounding` is the distance of the
model's own float32 outputs from its float64 ones: a deviation of that size is rounding, not a fault of the export.

This is the second way of drawing them. With statistics drawn at random as well, resnet101_se was refused with 2.1e-4:
its float32 outputs were then 1.5e-4 from the float64 ones, and folding, exact to 3e-13 in float64, did not move them.

`--mobilenet` adds an ImageNet MobileNetV2, a real network that is not part of this project. `--aoti` names the models
that AOTInductor compiles too. `--add` keeps what the record has of other models.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import timm_gam  # registers the models  # noqa: F401
from timm_gam.core import hardware
from timm_gam.embed import embedding_network
from timm_gam.export import export_model
from timm_gam.images import resolve_preprocessing
from timm_gam.models import LoadedModel, load_model, weights_digest

VARIANTS = [
    n
    for kind in ("gam", "se", "cbam", "gam_g4")
    for n in timm.list_models(f"*resnet*_{kind}", module="attention_resnet")
]
SIDE = 224
MODELS = ["resnet50", *sorted(set(VARIANTS))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--aoti", nargs="*", default=["resnet50_gam"], help="models that AOTInductor compiles too")
    parser.add_argument("--mobilenet", type=Path, help="safetensors weights of mobilenetv2_100")
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    models = json.loads(args.record.read_text(encoding="utf-8"))["models"] if args.add else {}
    record: dict[str, Any] = {}
    for name in [*args.model, *(["mobilenetv2_100"] if args.mobilenet else [])]:
        loaded = load_model(name, checkpoint=args.mobilenet) if name == "mobilenetv2_100" else random_network(name)
        models[name] = measure(loaded, ["onnx", "torch", *(["aoti"] if name in args.aoti else [])])
        print(name, json.dumps(models[name]["files"]), flush=True)
        record = {
            "what": "embedding network at 224 px, batches of 1, 2 and 5, against the eager model, float32 on a CPU",
            "models": models,
            "hardware": hardware(),
        }
        if args.record is not None:
            args.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def random_network(name: str) -> LoadedModel:
    loaded = load_model(name, pretrained=False)
    torch.manual_seed(0)
    for module in loaded.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = 1.0  # the statistics become those of the next batch
    with torch.no_grad():
        loaded.model.train()(torch.randn(4, 3, SIDE, SIDE))
    loaded.model.eval()
    weights = replace(loaded.info.weights, sha256=weights_digest(loaded.model.state_dict()))
    return replace(loaded, info=replace(loaded.info, weights=weights))


def rounding(loaded: LoadedModel) -> float:
    """Distance of the eager model's outputs from its own in float64, as a share of an image's largest output."""
    network = embedding_network(loaded.model)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = network(images).double()
        exact = copy.deepcopy(network).double()(images.double())
    return ((single - exact).abs().amax(1) / exact.abs().amax(1)).max().item()


def measure(loaded: LoadedModel, formats: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        content = export_model(
            loaded,
            Path(temporary) / "out",
            formats=formats,
            preprocessing=resolve_preprocessing(loaded.model, img_size=SIDE),
        )
        seconds = time.perf_counter() - began
    kept = ("file", "bytes", "opset", "checked_with", "deviation")
    files = {entry["format"]: {key: entry[key] for key in kept if key in entry} for entry in content["files"]}
    return {
        "weights": content["weights"],
        "rounding": rounding(loaded),
        "seconds": round(seconds, 1),
        "files": files,
        "versions": {key: content["versions"][key] for key in ("python", "torch", "timm")},
    }


if __name__ == "__main__":
    main()
