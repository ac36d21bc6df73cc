"""The transfer experiment's wide networks and its refusals."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import timm_gam  # noqa: F401
from eval.transfer.__main__ import main
from eval.transfer.wide import WIDE


def _cost(name: str) -> tuple[int, int]:
    model = timm.create_model(name, num_classes=40, device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 64, 64, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("plain", WIDE)
def test_the_wide_network_costs_what_gam_costs(plain: str) -> None:
    for wide, gam in zip(_cost(WIDE[plain]), _cost(f"{plain}_gam"), strict=True):
        assert wide == pytest.approx(gam, rel=0.02)


def test_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--data-dir" in capsys.readouterr().err
