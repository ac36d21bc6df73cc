"""Surfaces from near by: tartan, knitwear, pebbles, wood, marble."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, Floats, mix, soft


def tartan(canvas: Canvas) -> None:
    """A woven check, flat or in folds."""
    u, v = _turned(canvas, canvas.between(0, np.pi / 2), folds=canvas.between(0, 0.08))
    period = canvas.between(0.25, 0.6)
    canvas.fill(canvas.hue(0, 1, (0.3, 0.95), (0.15, 0.8)))
    for _ in range(canvas.whole(2, 4)):
        colour, place, half = canvas.hue(0, 1, (0.1, 1), (0.05, 1)), canvas.between(0, 1), canvas.between(0.02, 0.2)
        for axis in (u, v):
            offset = np.abs((axis / period - place + 0.5) % 1 - 0.5)
            canvas.fill(colour, canvas.between(0.45, 0.7) * soft(half - offset, 0.02))
    twill = np.sin((u + v) * canvas.between(120, 180))
    canvas.shade(1 + 0.08 * twill + canvas.between(0, 0.3) * canvas.noise(2, 2))


def knitwear(canvas: Canvas) -> None:
    """Rows of stitches."""
    u, v = _turned(canvas, canvas.between(-0.5, 0.5), folds=canvas.between(0, 0.05))
    pitch = canvas.between(0.05, 0.11)
    column = u / pitch
    side = np.abs(column % 1 - 0.5)
    row = v / (0.8 * pitch) + 1.4 * side
    stitch = np.abs(np.sin(np.pi * row)) * np.clip(1 - (2 * np.abs(side - 0.25) / 0.5) ** 2 * 0.8, 0, 1)
    wool = canvas.hue(0, 1, (0.05, 0.8), (0.35, 0.95))
    canvas.fill(wool)
    if canvas.chance(0.6):
        band = canvas.between(4, 10)
        canvas.fill(canvas.hue(0, 1, (0.1, 0.8), (0.3, 1)), soft(np.sin(np.floor(row) * 2 * np.pi / band) - 0.2, 0.05))
    canvas.shade(np.asarray(0.35 + 0.7 * stitch + 0.08 * canvas.noise(40, 2), np.float32))
    canvas.shade(1 + canvas.between(0, 0.25) * canvas.noise(2, 2))


def pebbles(canvas: Canvas) -> None:
    """Rounded stones side by side."""
    size = canvas.between(0.09, 0.2)
    rows, columns = round(1 / size) + 3, round(ASPECT / size) + 3
    gy, gx = np.mgrid[0:rows, 0:columns] - 1.0
    points = np.stack([gx + canvas.rng.uniform(-0.1, 1.1, gx.shape), gy + canvas.rng.uniform(-0.1, 1.1, gy.shape)], -1)
    px, py = points.reshape(-1, 2).astype(np.float32).T * np.float32(size)
    u, v = canvas.x + 0.02 * canvas.noise(6, 1), canvas.y + 0.02 * canvas.noise(6, 1)
    squared = (u[..., None] - px) ** 2 + (v[..., None] - py) ** 2
    nearest = np.argmin(squared, axis=-1)
    first, second = np.sqrt(np.moveaxis(np.partition(squared, 1, axis=-1)[..., :2], -1, 0))
    gap = (second - first) / size
    tint, variety = canvas.hue(0, 1, (0, 0.35), (0.35, 0.8)), canvas.between(0.1, 0.6)
    palette = np.stack([mix(tint, canvas.hue(0, 1, (0, 0.4), (0.15, 0.95)), variety) for _ in range(px.size)])
    canvas.fill(palette[nearest] * np.clip(1.1 - 0.8 * (first[..., None] / size) ** 2, 0.2, 1.1))
    canvas.fill(mix(tint, (0, 0, 0), 0.85), 1 - soft(gap - 0.1, 0.08))
    canvas.shade(1 + 0.1 * canvas.noise(40, 1))


def wood(canvas: Canvas) -> None:
    """Grain and knots, in planks or whole."""
    _, v = _turned(canvas, canvas.between(-0.15, 0.15) + (np.pi / 2 if canvas.chance(0.3) else 0))
    tone = canvas.hue(0.04, 0.12, (0.25, 0.75), (0.3, 0.9))
    wave = 0.05 * canvas.noise(1.5, 2, stretch=3)
    for _ in range(canvas.whole(0, 3)):
        x, y, size = canvas.between(0, ASPECT), canvas.between(0, 1), canvas.between(0.05, 0.15)
        wave = wave + size * np.exp(-(((canvas.x - x) / (1.6 * size)) ** 2) - ((canvas.y - y) / size) ** 2)
    rings = np.sin((v + wave) * canvas.between(40, 110))
    fibre = canvas.noise(40, 1, stretch=8)
    canvas.fill(mix(tone, (0.1, 0.04, 0), 0.1))
    canvas.shade(np.asarray(0.9 + canvas.between(0.08, 0.2) * rings + 0.1 * fibre, np.float32))
    if canvas.chance(0.6):
        width = canvas.between(0.15, 0.4)
        plank = np.floor(v / width).astype(int)
        tones = canvas.rng.uniform(0.75, 1.15, 64).astype(np.float32)
        canvas.shade(tones[plank % 64])
        canvas.fill((0.05, 0.03, 0.02), 1 - soft(np.abs((v / width) % 1 - 0.5) * -1 + 0.48, 0.01))


def marble(canvas: Canvas) -> None:
    """Veins in polished stone."""
    stone = canvas.hue(0, 1, (0, 0.4), (0.25, 0.95))
    vein = mix(stone, canvas.hue(0, 1, (0, 0.6), (0, 1)), 0.9)
    canvas.fill(stone)
    canvas.fill(mix(stone, vein, 0.4), soft(canvas.noise(2, 4), 0.7))
    u, _ = _turned(canvas, canvas.between(0, np.pi))
    for _ in range(canvas.whole(2, 4)):
        swirl = (u * canvas.between(0.5, 2) + canvas.between(0.2, 0.6) * canvas.noise(canvas.between(2, 4), 5)) * 2
        canvas.fill(vein, canvas.between(0.3, 0.9) * np.exp(-((np.sin(swirl * 3) / canvas.between(0.05, 0.2)) ** 2)))


def _turned(canvas: Canvas, angle: float, folds: float = 0.0) -> tuple[Floats, Floats]:
    """Coordinates turned by an angle and bent by folds."""
    x, y = canvas.x, canvas.y
    if folds:
        x, y = x + folds * canvas.noise(2, 2), y + folds * canvas.noise(2, 2)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return np.asarray(u, np.float32), np.asarray(v, np.float32)
