"""What a record says of where it was made: package versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "timm-gam",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "datasets",
    "huggingface_hub",
    "safetensors",
)


def versions() -> dict[str, str | None]:
    """Package -> version, None where it is not installed; "python" first."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def hardware() -> dict[str, Any]:
    """Processor, cores, torch's threads and accelerators."""
    return {
        "machine": platform.machine(),
        "processor": _after("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far: of the device where it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has no such count
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, None where the system does not say."""
    kilobytes = _after("/proc/meminfo", "MemAvailable")
    return int(kilobytes.split()[0]) * 1024 if kilobytes else None


@cache  # reading what is installed takes milliseconds, and records ask often
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _after(path: str, name: str) -> str:
    """What follows "NAME:" in a file of the system; "" where it has no such file or line."""
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
