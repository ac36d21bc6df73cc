"""Feature maps -> vectors: average, maximum, GeM and R-MAC pooling, and stages of a network side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import ModelError

Pooling = Literal["avg", "max", "gem", "rmac"]


def gem(maps: Tensor, power: float = 3.0) -> Tensor:
    """Generalised mean: (mean over places of max(x, 0)^p)^(1/p); p = 1 is the average, p -> infinity the maximum.

    Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation" (TPAMI 2019), equation 3.

    Args:
        maps: (B, C, H, W) float; what is negative counts as zero.
        power: p, above 0.

    Returns:
        (B, C).

    >>> gem(torch.tensor([[[[0.0, 2.0]]]]), power=1.0)
    tensor([[1.0000]])
    """
    return maps.float().clamp(min=1e-6).pow(power).mean(dim=(2, 3)).pow(1 / power).to(maps)


def rmac(maps: Tensor, levels: int = 3) -> Tensor:
    """Regional maximum activations: the sum of unit-length maxima over squares of several sizes, and over the whole.

    Tolias, Sicre, Jegou, "Particular Object Retrieval with Integral Max-Pooling of CNN Activations" (ICLR 2016),
    section 3.2. Level l has squares of side 2 min(H, W) / (l + 1), l of them along the shorter side, so many along the
    longer that neighbours share about 40 %. Without the whitening of the regions.

    Args:
        maps: (B, C, H, W) float.
        levels: L.

    Returns:
        (B, C).

    >>> rmac(torch.ones(1, 4, 7, 7)).shape
    torch.Size([1, 4])
    """
    height, width = maps.shape[2:]
    total = F.normalize(maps.amax(dim=(2, 3)), dim=1)
    extra = _extra_squares(height, width)
    for level in range(1, levels + 1):
        side = max(1, 2 * min(height, width) // (level + 1))
        down = _starts(height, side, level + (extra if height > width else 0))
        across = _starts(width, side, level + (extra if width > height else 0))
        for top in down:
            for left in across:
                region = maps[:, :, top : top + side, left : left + side].amax(dim=(2, 3))
                total = total + F.normalize(region, dim=1)
    return total


def _extra_squares(height: int, width: int) -> int:
    """How many squares the longer side has beyond the shorter, so that neighbours share closest to 40 % (paper)."""
    short, long = sorted((height, width))
    if short == long:
        return 0
    shared = [(short**2 - short * (long - short) / more) / short**2 for more in range(1, 7)]
    return 1 + min(range(6), key=lambda place: abs(shared[place] - 0.4))


def _starts(length: int, side: int, count: int) -> list[int]:
    """Where `count` squares begin, evenly from one end to the other."""
    if count == 1:
        return [(length - side) // 2]
    return sorted({place * (length - side) // (count - 1) for place in range(count)})


POOLINGS: Final[dict[Pooling, Callable[[Tensor], Tensor]]] = {
    "avg": lambda maps: maps.mean(dim=(2, 3)),
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "gem": gem,
    "rmac": rmac,
}


class SpatialPooling(nn.Module):
    """(B, 3, H, W) float -> (B, D) float: a timm model's feature maps, pooled; of several stages, side by side.

    Args:
        model: A timm model whose features have places: convolutional, or a transformer with patch tokens.
        pool: How each map is pooled.
        stages: Numbers of `forward_intermediates` whose maps stand before the last features, each of unit length; the
            last features then are so too.
    """

    def __init__(self, model: nn.Module, pool: Pooling = "avg", stages: Sequence[int] = ()) -> None:
        super().__init__()
        self.model, self.stages = model, list(stages)
        self._pool = POOLINGS[pool]
        if stages and not hasattr(model, "forward_intermediates"):
            raise ModelError(f"{type(model).__name__} does not give the features of its stages; leave --stages out")

    def forward(self, x: Tensor) -> Tensor:
        if not self.stages:
            return self._pool(self._places(self.model.forward_features(x)))  # type: ignore[operator]
        try:
            last, maps = self.model.forward_intermediates(x, indices=self.stages)  # type: ignore[operator]
        except AssertionError as error:
            raise ModelError(f"{type(self.model).__name__} has no stages {self.stages}: {error}") from error
        vectors = [self._pool(each) for each in (*maps, self._places(last))]
        return torch.cat([F.normalize(vector, dim=1) for vector in vectors], dim=1)

    def _places(self, features: Tensor) -> Tensor:
        if (maps := feature_maps(self.model, features)) is None:
            raise ModelError(
                f"{type(self.model).__name__} has features of shape {tuple(features.shape[1:])}, which have no places "
                "to pool; leave --pool out"
            )
        return maps


def feature_maps(model: nn.Module, features: Tensor) -> Tensor | None:
    """(B, C, H, W) of what a timm model's `forward_features` gives, None where that has no places.

    A transformer's tokens of places come after those of none; where they make up no square, H is 1.
    """
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else features
    if features.ndim != 3:
        return None
    tokens = features[:, int(getattr(model, "num_prefix_tokens", 0)) :]
    side = round(tokens.shape[1] ** 0.5)
    shape = (side, side) if side * side == tokens.shape[1] else (1, tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *shape)
