"""What the scenes are drawn with: smooth gradients, fractal noise, ridges, soft masks, and a pencil for shapes.

A position is (x, y) with x from 0 (left) to `ASPECT` (right) and y from 0 (top) to 1 (bottom). A colour is red, green
and blue from 0 to 1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 144, 96
"""Of each image in pixels."""

ASPECT = WIDTH / HEIGHT

_OVERSAMPLING = 2  # of the pencil; gradients and masks are smooth by themselves

Floats: TypeAlias = NDArray[np.floating[Any]]
Colour: TypeAlias = Sequence[float] | NDArray[np.floating]


def soft(signed: Floats, width: float = 0.012) -> Floats:
    """A mask that is 0 below -`width`, 1 above `width`, and smooth between: an edge without stairs."""
    mask: Floats = np.clip(signed / (2 * width) + 0.5, 0, 1).astype(np.float32)
    return mask


def mix(first: Colour, second: Colour, share: float) -> Floats:
    """`share` of the second colour, the rest of the first."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    blended: Floats = a + (b - a) * np.float32(share)
    return blended


class Canvas:
    """An image in the making, and the random generator that all of its variation comes from."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pixels: Floats = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        """(height, width, 3), red, green and blue from 0 to 1."""
        self.y, self.x = (
            np.ascontiguousarray(axis)
            for axis in np.meshgrid(
                (np.arange(HEIGHT, dtype=np.float32) + 0.5) / HEIGHT,
                (np.arange(WIDTH, dtype=np.float32) + 0.5) / HEIGHT,
                indexing="ij",
            )
        )
        """(height, width): the position of each pixel's centre."""

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def hue(self, low: float, high: float, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
        """A colour by hue (turns: 0 red, 1/3 green, 2/3 blue; may pass 1), saturation and value."""
        hsv = self.between(low, high) % 1, self.between(*saturation), self.between(*value)
        return np.asarray(colorsys.hsv_to_rgb(*hsv), np.float32)

    def noise(self, cells: float, octaves: int = 3, stretch: float = 1.0) -> Floats:
        """Fractal noise in (height, width), about -1 to 1.

        Args:
            cells: Of the coarsest octave over the height; each octave has twice as many at half the amplitude.
            stretch: How many times as wide as high a cell is.
        """
        total, amplitude, sum_of = np.zeros((HEIGHT, WIDTH), np.float32), 1.0, 0.0
        for octave in range(octaves):
            rows = max(2, round(cells * 2**octave))
            columns = max(2, round(cells * 2**octave * ASPECT / stretch))
            coarse = Image.fromarray(self.rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
            total += amplitude * np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
            sum_of += amplitude
            amplitude /= 2
        scaled: Floats = total / np.float32(0.7 * sum_of)
        return scaled

    def ridge(self, level: float, height: float, cells: float = 2.0, octaves: int = 4, gain: float = 0.5) -> Floats:
        """(width,): the y of a skyline that wanders by `height` around `level`."""
        line, amplitude = np.zeros(WIDTH), 1.0
        for octave in range(octaves):
            knots = max(2, round(cells * 2**octave)) + 1
            positions = np.linspace(0, WIDTH - 1, knots)
            line += amplitude * np.interp(np.arange(WIDTH), positions, self.rng.uniform(-1, 1, knots))
            amplitude *= gain
        return np.asarray(level + height * line, np.float32)

    def below(self, line: Floats | float, width: float = 0.008) -> Floats:
        """The mask of what lies below a skyline."""
        return soft(self.y - line, width)

    def gradient(self, stops: Sequence[tuple[float, Colour]]) -> Floats:
        """(height, width, 3): colours from top to bottom, each at its y."""
        places = [y for y, _ in stops]
        bands = [
            np.interp(self.y[:, 0], places, [float(colour[channel]) for _, colour in stops]) for channel in range(3)
        ]
        return np.repeat(np.stack(bands, axis=-1)[:, None].astype(np.float32), WIDTH, axis=1)

    def disc(self, x: float, y: float, radius: float, edge: float = 0.012) -> Floats:
        """The mask of a disc; a wide `edge` makes a glow."""
        return soft(radius - np.hypot(self.x - x, self.y - y), edge)

    def fill(self, colour: Colour, mask: Floats | None = None) -> None:
        """Paint a colour, or an image of the canvas' shape, where the mask (height, width) is 1."""
        paint = np.asarray(colour, np.float32)
        if mask is None:
            self.pixels = np.broadcast_to(paint, self.pixels.shape).copy()
        else:
            self.pixels += (paint - self.pixels) * mask[..., None]

    def shade(self, factor: Floats) -> None:
        """Multiply the light by (height, width)."""
        self.pixels *= factor[..., None]

    @contextmanager
    def pencil(self) -> Iterator[Pencil]:
        """Draw lines and shapes over what is there."""
        size = (WIDTH * _OVERSAMPLING, HEIGHT * _OVERSAMPLING)
        image = self.image().resize(size, Image.Resampling.BILINEAR)
        yield Pencil(ImageDraw.Draw(image, "RGBA"))
        self.pixels = np.asarray(image.reduce(_OVERSAMPLING), np.float32) / 255

    def image(self) -> Image.Image:
        return Image.fromarray((np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


class Pencil:
    """Shapes at positions of the canvas, in colours, `opacity` from 0 to 1."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([_place(x, y) for x, y in points], fill=_ink(colour))

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        if right > left and bottom > top:
            self._draw.rectangle([_place(left, top), _place(right, bottom)], fill=_ink(colour, opacity))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self._draw.ellipse([_place(x - rx, y - ry), _place(x + rx, y + ry)], fill=_ink(colour))

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        pixels = max(1, round(width * HEIGHT * _OVERSAMPLING))
        self._draw.line([_place(x, y) for x, y in points], fill=_ink(colour), width=pixels, joint="curve")

    def leaf(self, x: float, y: float, length: float, angle: float, breadth: float, colour: Colour) -> None:
        """A leaf or petal that starts at (x, y), `breadth` times as broad as long; angle in radians, 0 to the right."""
        along = np.linspace(0, 1, 9)
        side = np.sin(np.pi * along**0.8) * breadth / 2
        u, v = np.concatenate([along, along[::-1]]) * length, np.concatenate([side, -side[::-1]]) * length
        cosine, sine = np.cos(angle), np.sin(angle)
        self.polygon(list(zip(x + u * cosine - v * sine, y + u * sine + v * cosine, strict=True)), colour)


def _place(x: float, y: float) -> tuple[float, float]:
    return x * HEIGHT * _OVERSAMPLING, y * HEIGHT * _OVERSAMPLING


def _ink(colour: Colour, opacity: float = 1.0) -> tuple[int, int, int, int]:
    red, green, blue = (int(min(max(float(part), 0), 1) * 255 + 0.5) for part in colour)
    return red, green, blue, int(opacity * 255 + 0.5)
