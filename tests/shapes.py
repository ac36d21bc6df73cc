"""Textured shapes drawn by code: a labelled image set that is hard for small networks, so that training moves.

24 classes = 12 outlines x 2 surfaces. Scale, position, rotation, perspective, colours, lighting, background,
clutter, occlusion and noise vary within a class. Colour says nothing about the class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timm_gam.data import ImageSet

__all__ = ["SHAPES_NAME", "draw_shapes"]

SHAPES_NAME = "shapes"

SIDE = 96
"""Height and width of each image in pixels."""

_OVERSAMPLING = 2

# Outline -> corners and valley radius of a star polygon; a valley at cos(pi / n) makes it a regular n-gon.
_STARS = {
    "triangle": (3, 0.5),
    "square": (4, 0.7071),
    "pentagon": (5, 0.809),
    "hexagon": (6, 0.866),
    "star4": (4, 0.4),
    "star5": (5, 0.42),
    "star6": (6, 0.5),
    "star8": (8, 0.6),
}
_OUTLINES = (*_STARS, "disc", "ring", "cross", "crescent")
_SURFACES = ("striped", "dotted")
_CLASSES = tuple(f"{outline}_{surface}" for outline in _OUTLINES for surface in _SURFACES)

Floats = NDArray[np.float64]


def draw_shapes(images_per_class: int = 30) -> ImageSet:
    """The image set: 24 classes, ids "CLASS/0000", pixels drawn when read and the same in every process.

    Args:
        images_per_class: At least 1; image i of a class does not depend on how many there are.
    """
    pairs = [(name, number) for name in _CLASSES for number in range(images_per_class)]
    ids = tuple(f"{name}/{number:04d}" for name, number in pairs)
    labels = np.repeat(np.arange(len(_CLASSES), dtype=np.int64), images_per_class)
    return ImageSet(SHAPES_NAME, ids, labels, _CLASSES, _ShapesReader(ids))


@dataclass(frozen=True)
class _ShapesReader:
    ids: tuple[str, ...]
    parallel: bool = True

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for index in indices:
            yield index, _draw(self.ids[index])


def _draw(image_id: str) -> Image.Image:
    """One 96 x 96 RGB image; all of its randomness comes from the SHA-256 of its id."""
    outline, surface = image_id.partition("/")[0].split("_")
    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.PCG64(seed))
    side = SIDE * _OVERSAMPLING
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    canvas = _background(x, y, rng)
    for _ in range(int(rng.integers(2, 6))):  # clutter behind
        _paint(canvas, _disturber(x, y, rng), rng.uniform(0, 1, 3))
    u, v = _viewpoint(x, y, rng)
    inside = _inside(outline, u, v)
    figure, ink = _contrasting(canvas[inside], rng)
    _paint(canvas, inside, figure)
    _paint(canvas, inside & _marked(surface, u, v, rng), ink)
    canvas *= 1 + rng.uniform(-0.35, 0.35) * x[..., None] + rng.uniform(-0.35, 0.35) * y[..., None]  # lighting
    if rng.random() < 0.5:  # occluder in front
        _paint(canvas, _disturber(x, y, rng), rng.uniform(0, 1, 3))
    small = canvas.reshape(SIDE, _OVERSAMPLING, SIDE, _OVERSAMPLING, 3).mean(axis=(1, 3))
    small += rng.normal(0, rng.uniform(0.01, 0.06), small.shape)
    return Image.fromarray((np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8))


def _background(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A colour gradient with two waves over it."""
    low, high = rng.uniform(0, 1, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    mix = 0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)
    canvas: Floats = low + (high - low) * mix[..., None]
    for _ in range(2):
        kx, ky, phase = rng.uniform(-14, 14), rng.uniform(-14, 14), rng.uniform(0, 6.3)
        canvas += 0.09 * np.sin(kx * x + ky * y + phase)[..., None] * rng.uniform(-1, 1, 3)
    return canvas


def _disturber(x: Floats, y: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A small disc or bar anywhere."""
    cx, cy, angle = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, np.pi)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
    if rng.random() < 0.5:
        return np.asarray(u * u + v * v < rng.uniform(0.06, 0.2) ** 2)
    return np.asarray((np.abs(u) < rng.uniform(0.2, 0.6)) & (np.abs(v) < rng.uniform(0.03, 0.09)))


def _viewpoint(x: Floats, y: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Figure coordinates of each pixel: shift, rotation, scale, shear and perspective."""
    scale, angle = rng.uniform(0.4, 0.8), rng.uniform(0, 2 * np.pi)
    room = 0.9 - scale
    x, y = x - rng.uniform(-room, room), y - rng.uniform(-room, room)
    depth = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y
    x, y = x / depth, y / depth
    u = (x * np.cos(angle) + y * np.sin(angle)) / scale
    v = (-x * np.sin(angle) + y * np.cos(angle)) / (scale * rng.uniform(0.7, 1))
    return u + rng.uniform(-0.25, 0.25) * v, v


def _inside(outline: str, u: Floats, v: Floats) -> NDArray[np.bool_]:
    radius = np.sqrt(u * u + v * v)
    if outline == "disc":
        return np.asarray(radius < 0.85)
    if outline == "ring":
        return np.asarray((radius < 0.9) & (radius > 0.45))
    if outline == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.asarray((np.maximum(a, b) < 0.9) & (np.minimum(a, b) < 0.3))
    if outline == "crescent":
        return np.asarray((radius < 0.9) & ((u - 0.4) ** 2 + v * v > 0.65**2))
    corners, valley = _STARS[outline]
    half = np.pi / corners
    # Fold the plane into one half of one point: its edge runs from the tip (1, 0) to the valley.
    folded = np.abs(np.mod(np.arctan2(v, u) + half, 2 * half) - half)
    px, py = radius * np.cos(folded), radius * np.sin(folded)
    ex, ey = valley * np.cos(half) - 1, valley * np.sin(half)
    return np.asarray(ex * py - ey * (px - 1) > 0)


def _marked(surface: str, u: Floats, v: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Where the figure carries ink: stripes, or dots on a grid."""
    period, phase = rng.uniform(0.25, 0.4), rng.uniform(0, 1, 2)
    a, b = np.mod(u / period + phase[0], 1) - 0.5, np.mod(v / period + phase[1], 1) - 0.5
    if surface == "striped":
        return np.asarray(np.abs(a) < 0.22)
    return np.asarray(a * a + b * b < 0.3**2)


def _contrasting(behind: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A figure colour unlike what is behind it, and an ink unlike the figure."""
    backdrop = behind.mean(axis=0) if len(behind) else np.full(3, 0.5)
    figure = _unlike(backdrop, rng)
    return figure, _unlike(figure, rng)


def _unlike(colour: Floats, rng: np.random.Generator) -> Floats:
    candidates = rng.uniform(0, 1, (8, 3))
    distance = np.abs(candidates - colour).sum(axis=1)
    return np.asarray(candidates[int(np.argmax(distance > 0.8))])


def _paint(canvas: Floats, where: NDArray[np.bool_], colour: Floats) -> None:
    canvas[where] = colour
