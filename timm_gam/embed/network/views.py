"""Several views of each image, flipped and at other scales, embedded as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import ModelError


class Views(nn.Module):
    """(B, 3, H, W) float -> (B, D) float: the mean of a network's vectors of every view.

    Test-time augmentation as in Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation"
    (TPAMI 2019), section 5.2, by the mean.

    Args:
        network: (B, 3, H, W) -> (B, D).
        flip: Also the mirror image of each view.
        scales: Sides of each view relative to the input; 0.5 halves them.

    >>> Views(nn.Flatten(), flip=True)(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, network: nn.Module, *, flip: bool = False, scales: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.network, self.flip, self.scales = network, flip, tuple(scales)

    def forward(self, x: Tensor) -> Tensor:
        vectors = []
        for scale in self.scales:
            view = x
            if scale != 1:
                size = [max(1, round(side * scale)) for side in x.shape[2:]]
                view = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
            vectors.append(self._embedded(view, scale))
            if self.flip:
                vectors.append(self._embedded(view.flip(3), scale))
        return torch.stack(vectors).mean(dim=0)

    def _embedded(self, view: Tensor, scale: float) -> Tensor:
        try:
            out: Tensor = self.network(view)
        except AssertionError as error:
            if scale == 1:
                raise
            raise ModelError(f"the network takes one size of input only, so scale {scale} cannot be had: {error}")  # noqa: B904
        return out
