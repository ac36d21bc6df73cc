"""Time GAM ResNet50 inference against GAM as it is usually published, and against the processor's own limit.

    python benchmarks/networks/inference.py --record benchmarks/results/inference.json

The peer is this project's network with GAM in the usual public form, with the same weights: permute, two nn.Linear,
permute back, two 7x7 convolutions with batch norms, NCHW, eager (its outputs are checked against ours first). All
settings run in this process in turns; the figures to quote are ratios of medians. Beside each time stands the share of
the peak: operations of the network's convolutions and linear layers, padding counted, over the faster of a matrix
product and a 7x7 convolution measured in the same run. A convolution may pass it, as it can skip padding. The last part
times the GAM blocks alone, at the four sizes a ResNet50 has them, weighted by how many of each there are.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import timm_gam
from timm_gam.core import hardware

BLOCKS = {(256, 4): 3, (512, 8): 4, (1024, 16): 6, (2048, 32): 3}  # (channels, stride) of a ResNet50's stages


class PublishedGAM(nn.Module):
    """GAM as public snippets write it, with the weights of one of our layers."""

    def __init__(self, ours: timm_gam.GlobalAttention) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(ours.channel.fc1), linear(ours.channel.fc2)
        spatial = ours.spatial
        self.spatial = nn.Sequential(spatial.conv1, spatial.bn1, nn.ReLU(inplace=True), spatial.conv2, spatial.bn2)

    def forward(self, x: Tensor) -> Tensor:
        channel = self.fc2(self.fc1(x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2).sigmoid()
        x = x * channel
        return x * self.spatial(x).sigmoid()


def linear(conv: nn.Conv2d) -> nn.Linear:
    layer = nn.Linear(conv.in_channels, conv.out_channels)
    layer.load_state_dict({"weight": conv.weight.detach().flatten(1), "bias": conv.bias.detach()})
    return layer


def published(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, timm_gam.GlobalAttention):
                setattr(module, name, PublishedGAM(child))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    torch.set_grad_enabled(False)

    x = torch.randn(args.batch_size, 3, args.img_size, args.img_size, generator=torch.Generator().manual_seed(0))
    network = whole_network(x, args.rounds)
    peaks = {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}
    blocks = {name: gam_blocks(x, args.rounds, dtype) for name, dtype in (("exact", None), ("bf16", torch.bfloat16))}
    for name, block in blocks.items():
        block["share_of_peak"] = block["gflops"] / peaks["float32" if name == "exact" else "bfloat16"]
    for setting in network["settings"].values():
        setting["share_of_peak"] = setting["gflops"] / peaks[setting["precision"]]
    record = {
        "what": f"resnet50_gam, batch {args.batch_size} at {args.img_size} px, random weights, seed 0",
        "batch_size": args.batch_size,
        "network": network,
        "gam_blocks": blocks,
        "peak_gflops": peaks,
        "hardware": hardware(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }
    print(f"{'':24}  seconds   over published   share of peak   largest relative deviation")
    for name, setting in network["settings"].items():
        print(
            f"{name:24}  {setting['median']:7.3f}   {setting['published_over_this']:14.2f}   "
            f"{setting['share_of_peak']:13.2f}   {setting['deviation']:.1e}"
        )
    for name, block in blocks.items():
        print(f"GAM blocks, {name:12}  {block['seconds']:7.3f}   {'':14}   {block['share_of_peak']:13.2f}")
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def whole_network(x: Tensor, rounds: int) -> dict[str, Any]:
    """All settings in turns on one batch."""
    torch.manual_seed(0)
    model = trained_looking(timm.create_model("resnet50_gam", num_classes=0).eval())
    operations = flops(model, x[:1]) * len(x)
    exact, half = timm_gam.optimize(model), timm_gam.optimize(model, dtype=torch.bfloat16)
    uncompiled = timm_gam.optimize(model, compiled=False)
    settings: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
        "ours, eager": (model, "float32"),
        "optimized, no compiler": (uncompiled, "float32"),
        "optimized": (exact, "float32"),
        "optimized, bfloat16": (half, "bfloat16"),
    }
    expected = model(x)
    torch.manual_seed(0)
    peer = published(trained_looking(timm.create_model("resnet50_gam", num_classes=0).eval()))
    settings = {"published form": (peer, "float32"), **settings}
    deviations = {name: relative_deviation(run(x), expected) for name, (run, _) in settings.items()}
    times: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, (run, _) in settings.items():
            times[name].append(seconds(lambda run=run: run(x)))  # type: ignore[misc]
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "gflop_per_batch": operations / 1e9,
        "applied": {"optimized": exact.applied, "optimized, bfloat16": half.applied},
        "settings": {
            name: {
                "seconds": times[name],
                "median": medians[name],
                "published_over_this": medians["published form"] / medians[name],
                "gflops": operations / medians[name] / 1e9,
                "precision": precision,
                "deviation": deviations[name],
            }
            for name, (_, precision) in settings.items()
        },
    }


def gam_blocks(x: Tensor, rounds: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """The 16 GAM blocks of a ResNet50: seconds in all, and operations per second."""
    total, operations = 0.0, 0.0
    sizes = []
    for (channels, stride), count in BLOCKS.items():
        side = x.shape[-1] // stride
        block = timm_gam.GlobalAttention(channels).eval()
        features = torch.randn(len(x), channels, side, side)
        if dtype is not None:
            features = features.to(dtype)  # what the layer before hands on
        fast = timm_gam.optimize(block, dtype=dtype)
        fast(features)
        features = features.contiguous(memory_format=fast.memory_format)
        took = statistics.median(seconds(lambda: fast(features)) for _ in range(rounds))  # noqa: B023
        one = flops(block, features.float())
        sizes.append(
            {"channels": channels, "side": side, "seconds": took, "gflops": one / took / 1e9, "applied": fast.applied}
        )
        total, operations = total + count * took, operations + count * one
        torch._dynamo.reset()
    return {"seconds": total, "gflops": operations / total / 1e9, "sizes": sizes}


def trained_looking(model: nn.Module) -> nn.Module:
    """Batch norms that are no identities and residual branches that are not zero, as at initialisation."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.uniform_(0.3, 0.7, generator=generator)
    return model


def peak(dtype: torch.dtype) -> float:
    """GFLOP/s of the faster of one large matrix product and one 7x7 convolution, the best of several."""
    a, b = torch.randn(2, 4096, 4096).to(dtype)
    product = 2 * 4096**3 / min(seconds(lambda: a @ b) for _ in range(4))
    conv = nn.Conv2d(256, 256, 7, padding=3).to(dtype).to(memory_format=torch.channels_last)
    features = torch.randn(8, 256, 28, 28).to(dtype).contiguous(memory_format=torch.channels_last)
    convolution = 2 * 8 * 28**2 * 49 * 256**2 / min(seconds(lambda: conv(features)) for _ in range(6))
    return max(product, convolution) / 1e9


def flops(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x)
    return int(counter.get_total_flops())


def relative_deviation(got: Tensor, expected: Tensor) -> float:
    """Largest over the images: length of the difference over the length of the embedding."""
    return float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
