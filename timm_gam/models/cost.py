"""What a model costs: parameters, multiply-accumulates, images per second."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image, counted without computing.

    Args:
        network: On the meta device.
        input_size: (channels, height, width).

    >>> from timm_gam.models import count_macs
    >>> count_macs(torch.nn.Linear(4, 5, device="meta"), (1, 1, 4))
    20
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, *input_size, device="meta"))
    return int(counter.get_total_flops() // 2)


def images_per_second(model: nn.Module, input_size: tuple[int, int, int], device: str) -> float:
    """Median throughput of the forward pass in float32: batches of 32 images of noise, for 0.3 s and 5 batches."""
    model = model.to(device).eval()
    pixels = torch.randn(32, *input_size, device=device)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < 6 or sum(times) < 0.3:
            began = time.perf_counter()
            model(pixels)[0, 0].item()  # reading a value waits for the device
            times.append(time.perf_counter() - began)
    return len(pixels) / statistics.median(times[1:])
