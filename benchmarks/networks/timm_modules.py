"""One network of each of timm's modules, saved by timm and loaded by `load_model`: the same weights, or why not.

    python benchmarks/networks/timm_modules.py            # all modules: minutes, and up to a few GB of memory
    python benchmarks/networks/timm_modules.py resnet eva

Of a module the network with the fewest parameters among its first CANDIDATES names. Exit code 1 where one fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from timm_gam.core import TimmGamError, one_line
from timm_gam.models import load_model, weights_digest

CANDIDATES = 40


def smallest(module: str) -> str | None:
    """The network of a module with the fewest parameters; None where none can be built."""
    sizes = {}
    for name in timm.list_models(module=module)[:CANDIDATES]:
        try:
            model = timm.create_model(name, device="meta")
        except Exception:  # a few need another library, or cannot be built on the meta device
            continue
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    return min(sizes, key=lambda name: sizes[name]) if sizes else None


def round_trip(name: str) -> str:
    """ "" where a network comes back as it was saved, else what went wrong."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with tempfile.TemporaryDirectory(prefix="timm-gam-modules-") as folder:
        save_config_for_hf(model, str(Path(folder) / "config.json"))
        tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}  # some are shared
        save_file(tensors, Path(folder) / "model.safetensors")
        try:
            loaded = load_model(f"local-dir:{Path(folder)}")
        except TimmGamError as error:
            return one_line(error)
    same = weights_digest(loaded.model.state_dict()) == weights_digest(model.state_dict())
    return "" if same else "other weights came back"


def main() -> int:
    """Try each module; returns 1 where a network does not come back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="(default: all of timm's)")
    modules = parser.parse_args().modules or timm.list_modules()
    failed = 0
    for module in modules:
        name = smallest(module)
        wrong = "no network can be built" if name is None else round_trip(name)
        failed += bool(wrong)
        print(f"{module:<24} {name or '-':<40} {wrong or 'same weights'}", flush=True)
    print(f"{len(modules) - failed} of {len(modules)} modules")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
