"""A whole image set as tensors on one device: what training crops from, and what evaluation sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from timm_gam.data import ImageSet
from timm_gam.images import DecodeLimits, Preprocessing, load_image

_LARGEST = 2  # times the network's size: longer images are reduced to this before they are kept
_ATTEMPTS = 10  # to draw a crop that lies within the image, as in timm and torchvision
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class DeviceImages:
    """N images.

    Attributes:
        canvas: (N, 3, S, S) uint8, each image in the upper left corner, zeros beside it.
        sizes: (N, 2) int64 height and width of each image, on the CPU.
        seen: (N, 3, H, W) uint8, each as evaluation's resize and crop give it.
        labels: (N,) int64 classes, on the CPU.
    """

    canvas: Tensor
    sizes: NDArray[np.int64]
    seen: Tensor
    labels: NDArray[np.int64]

    @classmethod
    def load(
        cls,
        images: ImageSet,
        preprocessing: Preprocessing,
        device: torch.device,
        limits: DecodeLimits = DecodeLimits(),
    ) -> DeviceImages:
        """Decode every image once.

        Raises:
            UnreadableImageError: an image cannot be decoded.
        """
        transform, longest = preprocessing.pixels(), _LARGEST * max(preprocessing.input_size[1:])
        seen = torch.empty(len(images), *preprocessing.input_size, dtype=torch.uint8)
        kept: list[NDArray[np.uint8]] = []
        for row, encoded in images.reader.read(range(len(images))):
            image, _ = load_image(encoded, images.ids[row], limits=limits)
            seen[row] = torch.as_tensor(transform(image))
            kept.append(_reduced(image, longest))
        sizes = np.array([array.shape[:2] for array in kept], dtype=np.int64)
        canvas = torch.zeros(len(images), 3, int(sizes.max()), int(sizes.max()), dtype=torch.uint8)
        for row, array in enumerate(kept):
            canvas[row, :, : array.shape[0], : array.shape[1]] = torch.from_numpy(array).permute(2, 0, 1)
        return cls(canvas.to(device), sizes, seen.to(device), images.labels)

    def random_crops(
        self, rows: NDArray[np.int64], scale: tuple[float, float], hflip: float, generator: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Draw a crop per row as timm's RandomResizedCropAndInterpolation does: a share of the area, a ratio, a place.

        Returns:
            (N, 4) top, left, height and width in pixels, and (N,) which to mirror.
        """
        height, width = self.sizes[rows].T.astype(np.float64)
        area = (height * width)[:, None] * generator.uniform(*scale, (len(rows), _ATTEMPTS))
        ratio = np.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), (len(rows), _ATTEMPTS)))
        tall, wide = np.round(np.sqrt(area / ratio)), np.round(np.sqrt(area * ratio))
        fits = (tall >= 1) & (wide >= 1) & (tall <= height[:, None]) & (wide <= width[:, None])
        first = np.arange(len(rows)), fits.argmax(1)
        tall, wide = tall[first], wide[first]
        # None fits: the middle, as much of it as the nearest legal ratio leaves.
        none = ~fits.any(1)
        tall = np.where(none, np.minimum(height, np.round(width / _RATIO[0])), tall)
        wide = np.where(none, np.minimum(width, np.round(height * _RATIO[1])), wide)
        place = np.where(none[:, None], 0.5, generator.random((len(rows), 2)))
        top = np.floor(place[:, 0] * (height + 1 - tall))
        left = np.floor(place[:, 1] * (width + 1 - wide))
        return np.stack([top, left, tall, wide], axis=1).astype(np.float32), generator.random(len(rows)) < hflip

    def crop(self, rows: NDArray[np.int64], boxes: NDArray[np.float32], flips: NDArray[np.bool_]) -> Tensor:
        """(B, 3, H, W) uint8: the boxes of these rows, resized bilinearly to what evaluation sees."""
        device, side = self.canvas.device, self.canvas.shape[-1]
        height, width = self.seen.shape[-2:]
        packed = np.concatenate([rows[:, None], boxes, flips[:, None], self.sizes[rows]], axis=1).astype(np.float32)
        index, top, left, tall, wide, flip, bottom, right = torch.from_numpy(packed).to(device).T
        across = torch.arange(width, device=device)
        across = torch.where(flip[:, None] > 0, width - 1 - across, across)
        x = left[:, None] + (across + 0.5) * (wide / width)[:, None] - 0.5
        y = top[:, None] + (torch.arange(height, device=device) + 0.5) * (tall / height)[:, None] - 0.5
        x = torch.minimum(x.clamp(min=0), right[:, None] - 1)
        y = torch.minimum(y.clamp(min=0), bottom[:, None] - 1)
        grid = (
            torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
            * (2 / max(side - 1, 1))
            - 1
        )
        pixels = self.canvas[index.long()].float()
        return F.grid_sample(pixels, grid, align_corners=True).round_().to(torch.uint8)


def _reduced(image: Image.Image, longest: int) -> NDArray[np.uint8]:
    """(H, W, 3): the image, reduced where its longer side is above `longest`."""
    if max(image.size) > longest:
        scale = longest / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image)
