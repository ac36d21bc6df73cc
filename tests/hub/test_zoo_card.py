"""MODEL_CARD.md gives the numbers that the models have."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

import timm_gam  # noqa: F401  registers the models
from timm_gam.models import count_macs

CARD = (Path(__file__).parents[2] / "MODEL_CARD.md").read_text()
# Measured apart from this code; convolutions and matrix products only.
KNOWN = {"resnet50": 4.089, "resnet50_se": 4.092, "resnet50_cbam": 4.096, "resnet50_gam": 24.641}


def gmacs(name: str) -> float:
    network = timm.create_model(name, device="meta").eval()
    return count_macs(network, network.pretrained_cfg["input_size"]) / 1e9


@pytest.mark.parametrize("name", sorted(timm.list_models(module="attention_resnet")))
def test_gmacs_of_the_card(name: str) -> None:
    base, _, kind = name.rpartition("_")
    row = next(
        line
        for line in CARD.splitlines()
        if line.startswith("|") and (f"`{name}`" in line or f"`{base}_gam` /" in line)
    )
    cells = row.split("|")[3].strip().split(" / ")
    cell = cells[0] if len(cells) == 1 else cells[("gam", "se", "cbam").index(kind)]
    assert float(cell) == pytest.approx(gmacs(name), abs=1e-3)


@pytest.mark.parametrize(("name", "value"), KNOWN.items())
def test_macs_are_those_known(name: str, value: float) -> None:
    assert gmacs(name) == pytest.approx(value, abs=1e-3)
