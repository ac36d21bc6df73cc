"""Scenes on land: dunes, snowy peaks, canyon, fields, forest, autumn forest."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, Floats, mix, soft
from timm_gam.data.synthetic.sky import day_sky


def dunes(canvas: Canvas) -> None:
    """Sand in waves, one side of each crest in shadow."""
    day_sky(canvas, clear=True)
    sand = canvas.hue(0.04, 0.13, (0.35, 0.75), (0.6, 0.95))
    light = -1 if canvas.chance(0.5) else 1
    top = canvas.between(0.1, 0.5)
    for level in np.linspace(top, canvas.between(0.75, 1), canvas.whole(2, 5)):
        crest = canvas.ridge(float(level), canvas.between(0.04, 0.14), canvas.between(1, 2.5), 2, 0.25)
        mask = canvas.below(_smooth(crest))
        ripples = np.sin((canvas.y - crest) * canvas.between(50, 110) + 3 * canvas.noise(2, 2))
        slope = np.gradient(_smooth(crest)) * 96 * light
        tone = np.clip(0.85 + 0.9 * slope, 0.35, 1.15)[None] + 0.05 * ripples - 0.25 * (canvas.y - crest)
        canvas.fill(sand * tone[..., None], mask)


def snow_peaks(canvas: Canvas) -> None:
    """Rock under snow against the sky, sometimes above a dark forest or a lake."""
    day_sky(canvas)
    level = canvas.between(0.3, 0.5)
    for layer in range(canvas.whole(1, 3)):
        line = canvas.ridge(level + 0.13 * layer, canvas.between(0.16, 0.3), canvas.between(2, 4), 5)
        rock = canvas.hue(0.55, 0.75, (0.05, 0.35), (0.15, 0.45))
        mountain = canvas.below(line)
        canvas.fill(rock, mountain)
        depth = canvas.y - line
        snow = soft(canvas.between(0.1, 0.45) - depth + 0.2 * canvas.noise(10, 4, stretch=0.6), 0.03)
        facing = soft(np.gradient(canvas.noise(7, 4, stretch=0.5), axis=1) * 12 + 0.3, 0.35)
        white = mix((0.97, 0.98, 1), canvas.hue(0.55, 1.1, (0, 0.2), (0.9, 1)), 0.5)
        canvas.fill(white, mountain * snow)
        canvas.fill(mix(rock, (0.6, 0.7, 0.9), 0.5), mountain * (1 - facing) * 0.7)
    if canvas.chance(0.5):
        trees(canvas, canvas.between(0.75, 0.95), canvas.hue(0.3, 0.45, (0.3, 0.6), (0.08, 0.25)))


def canyon(canvas: Canvas) -> None:
    """Layered red rock: mesas, towers and walls."""
    day_sky(canvas, clear=True)
    stone = canvas.hue(0.99, 1.09, (0.4, 0.75), (0.45, 0.85))
    for layer in range(canvas.whole(1, 3)):
        level = canvas.between(0.25, 0.45) + 0.2 * layer
        line = canvas.ridge(level, canvas.between(0.08, 0.2), canvas.between(3, 7), 2)
        steps = np.round(line / 0.08) * 0.08 if canvas.chance(0.7) else line
        mask = canvas.below(_smooth(steps.astype(np.float32), 3))
        strata = np.sin((canvas.y + 0.03 * canvas.noise(3, 3)) * canvas.between(40, 90) + canvas.between(0, 6))
        cracks = canvas.noise(6, 4, stretch=0.25)
        tone = 0.85 + 0.14 * strata + 0.22 * cracks - 0.1 * layer
        canvas.fill(stone * np.clip(tone, 0.2, 1.2)[..., None], mask)
    if canvas.chance(0.5):
        ground = canvas.ridge(canvas.between(0.75, 0.9), 0.03)
        canvas.fill(mix(stone, canvas.hue(0.1, 0.25, (0.2, 0.5), (0.4, 0.7)), 0.6), canvas.below(ground))
        canvas.shade(1 + 0.15 * canvas.noise(25, 2) * canvas.below(ground))


def fields(canvas: Canvas) -> None:
    """Rows of crops that run to the horizon."""
    day_sky(canvas)
    horizon = canvas.between(0.25, 0.55)
    ground = canvas.hue(0.12, 0.36, (0.4, 0.85), (0.4, 0.8))
    hills = canvas.ridge(horizon, canvas.between(0.01, 0.06), 2, 3)
    canvas.fill(mix(ground, (0.25, 0.4, 0.4), 0.6), canvas.below(hills - 0.04))
    canvas.fill(ground, canvas.below(horizon))
    vanish, rows = canvas.between(-0.3, ASPECT + 0.3), canvas.between(5, 16)
    depth = np.maximum(canvas.y - horizon + 0.03, 0.01)
    pattern = np.sin((canvas.x - vanish) / depth * rows)
    soil = mix(ground, canvas.hue(0.05, 0.3, (0.3, 0.7), (0.15, 0.4)), 0.8)
    canvas.fill(soil, canvas.below(horizon) * soft(pattern - 0.1, 0.4) * np.clip(depth * 6, 0, 1))
    canvas.shade(1 + 0.18 * canvas.noise(30, 2) * canvas.below(horizon))
    for _ in range(canvas.whole(0, 4)):
        x, size = canvas.between(0, ASPECT), canvas.between(0.03, 0.1)
        leaf = canvas.hue(0.22, 0.38, (0.4, 0.8), (0.12, 0.35))
        canvas.fill(leaf, canvas.disc(x, horizon - 0.6 * size, size, 0.02) * soft(canvas.noise(25, 2) + 0.9, 0.3))


def forest(canvas: Canvas) -> None:
    """Trunks and green leaves."""
    leaf = canvas.hue(0.2, 0.42, (0.4, 0.85), (0.3, 0.65))
    bright = mix(leaf, (0.95, 1, 0.8), canvas.between(0.1, 0.7))
    _wood(canvas, leaf, bright, canvas.hue(0.05, 0.3, (0.3, 0.7), (0.1, 0.45)))


def autumn_forest(canvas: Canvas) -> None:
    """Trunks and red, orange or yellow leaves, also on the ground."""
    leaf = canvas.hue(0.97, 1.15, (0.65, 0.95), (0.55, 0.95))
    _wood(canvas, leaf, canvas.hue(0.08, 0.17, (0.4, 0.9), (0.8, 1)), canvas.hue(0.02, 0.12, (0.5, 0.8), (0.3, 0.65)))


def trees(canvas: Canvas, level: float, colour: Floats) -> None:
    """A line of conifers whose feet are at `level`."""
    with canvas.pencil() as pencil:
        pencil.rectangle(0, level, ASPECT, 1, colour)
        for x in np.arange(-0.05, ASPECT + 0.05, canvas.between(0.03, 0.06)):
            height, half = canvas.between(0.08, 0.2), canvas.between(0.02, 0.045)
            shade = mix(colour, (0, 0, 0), canvas.between(0, 0.4))
            pencil.polygon([(x - half, level + 0.01), (x, level - height), (x + half, level + 0.01)], shade)


def _wood(canvas: Canvas, leaf: Floats, bright: Floats, ground: Floats) -> None:
    canvas.fill(mix(leaf, (0.05, 0.05, 0.02), canvas.between(0.2, 0.6)))
    canvas.fill(bright, soft(canvas.noise(canvas.between(3, 6), 4) - 0.1, 0.4))
    floor = canvas.between(0.65, 0.95)
    canvas.fill(ground, canvas.below(canvas.ridge(floor, 0.04)))
    canvas.shade(1 + 0.25 * canvas.noise(24, 2))
    bark = canvas.hue(0.03, 0.14, (0.05, 0.5), (0.08, 0.6))
    with canvas.pencil() as pencil:
        for _ in range(canvas.whole(3, 14)):
            x, width, lean = canvas.between(0, ASPECT), canvas.between(0.012, 0.1), canvas.between(-0.06, 0.06)
            shade, foot = mix(bark, (0, 0, 0), canvas.between(0, 0.5)), floor + canvas.between(0, 0.2)
            top = [(x + lean, -0.02), (x + lean + 0.6 * width, -0.02)]
            pencil.polygon([(x - width / 2, foot), *top, (x + width / 2, foot)], shade)
            pencil.line([(x + 0.2 * width, foot), (x + lean + 0.4 * width, 0)], mix(shade, (1, 1, 1), 0.2), 0.2 * width)
    crown = soft(canvas.noise(canvas.between(7, 12), 3) + canvas.between(0.2, 0.6) - 1.4 * canvas.y, 0.15)
    spots = canvas.noise(28, 2)
    canvas.fill(mix(leaf, bright, 0.2) * np.clip(0.85 + 0.4 * spots, 0.2, 1.4)[..., None], crown)


def _smooth(line: Floats, width: int = 9) -> Floats:
    padded = np.pad(line, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid").astype(np.float32)
