"""Counts of scores between targets, against comparing every score with every target."""

from __future__ import annotations

import pytest
import torch

from eval.scoring.counting import count_scores

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [1, 2, 7, 64, 100, 4001])
def test_counts_what_comparing_everything_counts(device: str, width: int) -> None:
    chance = torch.Generator().manual_seed(width)
    targets = torch.randint(0, 12, (5, width), generator=chance).double().sort(dim=1).values
    targets[2, width // 2 :] = torch.inf  # no target
    scores = torch.randint(-1, 13, (5, 333), generator=chance).double()
    bins, equal = torch.zeros(5, width + 1, dtype=torch.int32), torch.zeros(5, width, dtype=torch.int32)
    bins, equal = bins.to(device), equal.to(device)
    for part in scores.split(200, dim=1):  # added to block by block
        count_scores(part.contiguous().to(device), targets.to(device), bins, equal)
    below = (targets[:, None, :] < scores[:, :, None]).sum(dim=2)
    assert bins.cpu().tolist() == [torch.bincount(row, minlength=width + 1).tolist() for row in below]
    first = targets.diff(dim=1, prepend=torch.full((5, 1), -torch.inf).double()) > 0  # of equal targets
    expected = ((targets[:, :, None] == scores[:, None, :]).sum(dim=2) * first).tolist()
    assert equal.cpu().tolist() == expected
