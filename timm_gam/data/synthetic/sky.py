"""Scenes of the sky: clouds, hot-air balloons, fireworks, planets; and the skies of other scenes."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, mix, soft


def day_sky(canvas: Canvas, *, clear: bool = False, grey: bool = False) -> None:
    """Fill the canvas with a sky of some hour and weather."""
    high = canvas.hue(0.53, 0.66, (0.35, 0.85), (0.45, 0.95))
    if grey or canvas.chance(0.0 if clear else 0.25):
        high = mix(high, np.full(3, canvas.between(0.5, 0.85)), canvas.between(0.4, 0.9))
    low = mix(high, canvas.hue(0.05, 0.6, (0, 0.25), (0.85, 1)), canvas.between(0.4, 0.85))
    canvas.fill(canvas.gradient([(0, high), (canvas.between(0.5, 0.9), low)]))
    if canvas.chance(0.35 if clear else 0.7):
        add_clouds(canvas, canvas.between(0.1, 0.7))


def add_clouds(canvas: Canvas, threshold: float) -> None:
    """Fractal clouds where the noise is above the threshold."""
    noise = canvas.noise(canvas.between(1.5, 3), 5, stretch=canvas.between(1.2, 2.5))
    mask = soft(noise - threshold, 0.35)
    light = np.clip(0.92 + 0.25 * (noise - 0.5), 0.5, 1)[..., None] * mix(
        (1, 1, 1), (1, 0.9, 0.8), canvas.between(0, 1)
    )
    canvas.fill(light, mask)


def clouds(canvas: Canvas) -> None:
    """Nothing but sky."""
    high = canvas.hue(0.53, 0.66, (0.35, 0.9), (0.35, 0.9))
    low = mix(high, canvas.hue(0.02, 0.62, (0, 0.4), (0.8, 1)), canvas.between(0.1, 0.7))
    canvas.fill(canvas.gradient([(0, high), (1, low)]))
    for _ in range(canvas.whole(1, 2)):
        add_clouds(canvas, canvas.between(-0.5, 0.4))
    if canvas.chance(0.4):
        shadow = soft(canvas.noise(2, 4, stretch=2) - 0.2, 0.4)
        canvas.fill(mix(high, (0.3, 0.3, 0.36), 0.6), 0.6 * shadow)


def balloons(canvas: Canvas) -> None:
    """Striped balloons with baskets."""
    day_sky(canvas, clear=canvas.chance(0.6))
    if canvas.chance(0.5):
        ground = canvas.hue(0.08, 0.4, (0.2, 0.6), (0.15, 0.5))
        canvas.fill(ground, canvas.below(canvas.ridge(canvas.between(0.75, 0.95), 0.06)))
    sizes = sorted(canvas.between(0.06, 0.2) for _ in range(canvas.whole(0, 5)))
    for size in [*sizes, canvas.between(0.16, 0.36)]:
        x, y = canvas.between(0.15, ASPECT - 0.15), canvas.between(0.15, 0.65)
        first, second = canvas.hue(0, 1, (0.6, 1), (0.6, 1)), canvas.hue(0, 1, (0.3, 1), (0.7, 1))
        v = (canvas.y - y) / size
        half = np.where(v < 0, np.sqrt(np.maximum(1 - v * v, 0)), np.maximum(1 - 0.62 * np.maximum(v, 0) ** 1.4, 0))
        inside = soft(half * size * 0.9 - np.abs(canvas.x - x), 0.01) * soft(1 - np.abs(v), 0.06)
        around = np.arcsin(np.clip((canvas.x - x) / np.maximum(half * size, 1e-3), -1, 1))
        gores = np.sin(around * canvas.whole(3, 7) + canvas.between(0, 6))
        if canvas.chance(0.3):
            gores = np.sin(v * canvas.between(4, 9) + canvas.between(0, 6))
        canvas.fill(first, inside)
        canvas.fill(second, inside * soft(np.asarray(gores, np.float32), 0.2))
        canvas.shade(1 - 0.35 * inside * soft(canvas.x - x, size))
        with canvas.pencil() as pencil:
            foot = y + 1.25 * size
            for side in (-1, 1):
                pencil.line([(x + side * 0.3 * size, y + size), (x + side * 0.1 * size, foot)], (0.2, 0.15, 0.1), 0.006)
            pencil.rectangle(x - 0.12 * size, foot, x + 0.12 * size, foot + 0.18 * size, (0.3, 0.18, 0.08))


def fireworks(canvas: Canvas) -> None:
    """Bursts of light over a dark town or water."""
    night = canvas.hue(0.55, 0.9, (0.3, 0.9), (0.01, 0.12))
    canvas.fill(canvas.gradient([(0, night), (1, mix(night, canvas.hue(0, 1, (0.2, 0.8), (0.2, 0.5)), 0.4))]))
    for _ in range(canvas.whole(1, 6)):
        x, y = canvas.between(0.1, ASPECT - 0.1), canvas.between(0.1, 0.65)
        radius, colour = canvas.between(0.12, 0.42), canvas.hue(0, 1, (0.2, 0.9), (0.8, 1))
        canvas.fill(colour, 0.3 * canvas.disc(x, y, 0.3 * radius, 0.8 * radius))
        sag, width = canvas.between(0, 0.5), canvas.between(0.006, 0.014)
        with canvas.pencil() as pencil:
            for angle in np.linspace(0, 2 * np.pi, canvas.whole(16, 48), endpoint=False):
                reach = radius * canvas.between(0.75, 1.05)
                t = np.linspace(canvas.between(0, 0.4), 1, 5) * reach
                points = list(zip(x + t * np.cos(angle), y + t * np.sin(angle) + sag * t * t / radius, strict=True))
                pencil.line(points, mix(colour, (1, 1, 1), canvas.between(0, 0.5)), width)
    if canvas.chance(0.6):
        level = canvas.between(0.8, 0.95)
        canvas.fill((0.01, 0.01, 0.02), canvas.below(canvas.ridge(level, 0.06, 12, 2)))
        sparks = soft(canvas.noise(60, 1) - 1.0, 0.1) * canvas.below(level)
        canvas.fill(canvas.hue(0.05, 0.15, (0.3, 0.7), (0.8, 1)), sparks)


def planets(canvas: Canvas) -> None:
    """Banded or cratered spheres among stars."""
    canvas.fill(canvas.hue(0.5, 0.95, (0.3, 0.9), (0, 0.1)))
    nebula = soft(canvas.noise(2, 4) - 0.2, 0.5)
    canvas.fill(canvas.hue(0.5, 1.1, (0.4, 0.9), (0.15, 0.5)), canvas.between(0, 0.6) * nebula)
    canvas.fill((1, 1, 0.95), soft(canvas.noise(90, 1) - canvas.between(1.0, 1.25), 0.08))
    for _ in range(canvas.whole(1, 3)):
        x, y, radius = canvas.between(0.1, ASPECT - 0.1), canvas.between(0.1, 0.9), canvas.between(0.08, 0.48)
        first, second = canvas.hue(0, 1, (0.1, 0.8), (0.5, 1)), canvas.hue(0, 1, (0.1, 0.8), (0.3, 0.9))
        inside = canvas.disc(x, y, radius)
        stretch = canvas.between(2, 8) if canvas.chance(0.5) else 1.0
        surface = soft(canvas.noise(canvas.between(3, 8), 4, stretch=stretch), 0.3)
        canvas.fill(first, inside)
        canvas.fill(second, inside * surface)
        sun = canvas.between(0, 2 * np.pi)
        lit = (canvas.x - x) * np.cos(sun) + (canvas.y - y) * np.sin(sun)
        canvas.shade(1 - inside * (1 - np.clip(0.55 + 0.9 * lit / radius, 0.04, 1.1)))
        if canvas.chance(0.3):
            tilt, reach = canvas.between(-0.6, 0.6), radius * canvas.between(1.5, 2)
            u = (canvas.x - x) * np.cos(tilt) + (canvas.y - y) * np.sin(tilt)
            v = -(canvas.x - x) * np.sin(tilt) + (canvas.y - y) * np.cos(tilt)
            span = np.hypot(u, v / 0.22)
            ring = soft(0.2 * radius - np.abs(span - reach), 0.02) * np.maximum(1 - inside, soft(np.asarray(v), 0.005))
            canvas.fill(mix(first, (0.9, 0.85, 0.7), 0.5), 0.8 * ring)
