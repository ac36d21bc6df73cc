"""Scenes at and under water: open sea, sunset, beach, waterfall, reef, icebergs."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, Colour, Floats, mix, soft
from timm_gam.data.synthetic.sky import day_sky


def open_sea(canvas: Canvas) -> None:
    """Waves up to a horizon, sometimes with a sail."""
    day_sky(canvas)
    horizon = canvas.between(0.15, 0.6)
    near = canvas.hue(0.46, 0.64, (0.4, 0.9), (0.15, 0.5))
    _water(canvas, horizon, mix(near, (0.75, 0.85, 0.9), canvas.between(0.2, 0.6)), near)
    crests = _waves(canvas, horizon, canvas.between(5, 14))
    canvas.fill((0.93, 0.96, 0.97), soft(crests - canvas.between(0.45, 0.8), 0.12) * canvas.below(horizon + 0.04, 0.03))
    if canvas.chance(0.4):
        x, size = canvas.between(0.2, ASPECT - 0.2), canvas.between(0.08, 0.22)
        foot = horizon + 0.3 * size
        sail = canvas.hue(0, 1, (0, 0.3), (0.8, 1))
        with canvas.pencil() as pencil:
            pencil.polygon([(x, foot - size), (x, foot), (x + 0.55 * size, foot)], sail)
            pencil.polygon([(x - 0.04, foot - 0.8 * size), (x - 0.03, foot), (x - 0.4 * size, foot)], sail)
            hull = [(x - 0.5 * size, foot), (x + 0.7 * size, foot), (x + 0.4 * size, foot + 0.2 * size)]
            pencil.polygon([*hull, (x - 0.3 * size, foot + 0.2 * size)], mix((0.1, 0.1, 0.15), sail, 0.2))


def sunset(canvas: Canvas) -> None:
    """A low sun over dark land or glittering water."""
    warm = canvas.hue(0.94, 1.14, (0.6, 0.95), (0.7, 1))
    high = canvas.hue(0.6, 1.02, (0.3, 0.8), (0.12, 0.5))
    horizon = canvas.between(0.5, 0.85)
    glow = mix(warm, (1, 0.9, 0.55), 0.5)
    canvas.fill(canvas.gradient([(0, high), (horizon * 0.65, warm), (horizon, glow)]))
    bands = canvas.noise(4, 3, stretch=canvas.between(3, 8))
    canvas.fill(mix(high, warm, 0.3), 0.75 * soft(bands - canvas.between(0, 0.5), 0.3))
    x, y, radius = canvas.between(0.2, ASPECT - 0.2), horizon - canvas.between(-0.02, 0.3), canvas.between(0.04, 0.12)
    canvas.fill(glow, 0.7 * canvas.disc(x, y, radius, 0.3))
    canvas.fill(mix((1, 0.97, 0.8), warm, canvas.between(0, 0.4)), canvas.disc(x, y, radius))
    dark = mix(high, (0.02, 0.01, 0.03), 0.75)
    if canvas.chance(0.5):
        _water(canvas, horizon, mix(warm, dark, 0.35), dark)
        column = np.exp(-(((canvas.x - x) / (0.06 + 0.5 * np.maximum(canvas.y - horizon, 0))) ** 2))
        glitter = soft(_waves(canvas, horizon, 16) - 0.05, 0.2) * column * canvas.below(horizon)
        canvas.fill(glow, np.asarray(glitter, np.float32))
    else:
        canvas.fill(dark, canvas.below(canvas.ridge(horizon, canvas.between(0.02, 0.12), canvas.between(2, 5))))
    if canvas.chance(0.4):
        _palm(canvas, canvas.between(0.2, ASPECT - 0.2), canvas.between(0.2, 0.5), dark)


def beach(canvas: Canvas) -> None:
    """Sand, surf and sea under a bright sky."""
    day_sky(canvas, clear=True)
    horizon = canvas.between(0.2, 0.5)
    near = canvas.hue(0.45, 0.58, (0.35, 0.8), (0.5, 0.85))
    _water(canvas, horizon, mix(near, (0.1, 0.25, 0.5), canvas.between(0.3, 0.8)), near)
    slope, level = canvas.between(-0.35, 0.35), canvas.between(horizon + 0.12, horizon + 0.4)
    shore = level + slope * (canvas.x - ASPECT / 2) + 0.02 * np.sin(canvas.x * canvas.between(4, 12))
    sand = canvas.hue(0.07, 0.14, (0.15, 0.5), (0.65, 0.95))
    canvas.fill((0.97, 0.98, 0.98), soft(canvas.y - shore + 0.03 + 0.03 * canvas.noise(12, 2), 0.012))
    canvas.fill(sand, soft(canvas.y - shore - 0.02, 0.01))
    canvas.shade(1 + 0.08 * canvas.noise(30, 2) * soft(canvas.y - shore - 0.02, 0.01))
    if canvas.chance(0.5):
        _palm(canvas, canvas.between(0.1, ASPECT - 0.1), canvas.between(0.15, 0.4), (0.2, 0.25, 0.12), foot=0.9)
    for _ in range(canvas.whole(0, 3)):
        x, y, size = canvas.between(0.1, ASPECT - 0.1), canvas.between(0.7, 0.95), canvas.between(0.05, 0.12)
        with canvas.pencil() as pencil:
            pencil.line([(x, y), (x, y - 1.4 * size)], (0.9, 0.9, 0.9), 0.012)
            colour = canvas.hue(0, 1, (0.6, 1), (0.7, 1))
            pencil.polygon([(x - size, y - size), (x, y - 1.7 * size), (x + size, y - size)], colour)


def waterfall(canvas: Canvas) -> None:
    """White water between dark rocks and green."""
    rock = canvas.hue(0.02, 0.2, (0.05, 0.4), (0.15, 0.4))
    canvas.fill(rock)
    canvas.shade(1 + 0.45 * canvas.noise(canvas.between(5, 9), 4))
    moss = soft(canvas.noise(4, 4) - canvas.between(-0.3, 0.4), 0.15)
    canvas.fill(canvas.hue(0.2, 0.36, (0.4, 0.8), (0.15, 0.5)), 0.8 * moss)
    if canvas.chance(0.5):
        brink = canvas.ridge(canvas.between(0.08, 0.25), 0.08)
        canvas.fill(canvas.hue(0.5, 0.6, (0, 0.4), (0.7, 1)), 1 - canvas.below(brink))
    top, bottom = canvas.between(-0.1, 0.25), canvas.between(0.7, 0.95)
    for _ in range(canvas.whole(1, 3)):
        x, half, flare = canvas.between(0.25, ASPECT - 0.25), canvas.between(0.05, 0.22), canvas.between(0, 0.25)
        wobble = 0.03 * canvas.noise(6, 2)
        width = half + flare * np.maximum(canvas.y - top, 0) + wobble
        stream = soft(width - np.abs(canvas.x - x - 0.06 * np.sin(canvas.y * canvas.between(2, 6))), 0.03)
        strands = canvas.noise(canvas.between(2, 4), 4, stretch=canvas.between(0.08, 0.2))
        light = np.clip(0.82 + 0.18 * strands, 0, 1)[..., None] * np.asarray([0.95, 0.98, 1.0], np.float32)
        canvas.fill(light, stream * soft(canvas.y - top, 0.02))
    pool = soft(canvas.y - bottom - 0.03 * canvas.noise(5, 2), 0.02)
    canvas.fill(mix(canvas.hue(0.4, 0.58, (0.2, 0.6), (0.3, 0.7)), (0.9, 0.95, 1), 0.3), pool)
    mist = soft(0.12 - np.abs(canvas.y - bottom) + 0.08 * canvas.noise(5, 3), 0.1)
    canvas.fill((0.92, 0.95, 0.97), 0.8 * mist)


def reef(canvas: Canvas) -> None:
    """Fish over corals, in blue light from above."""
    deep = canvas.hue(0.48, 0.66, (0.6, 1), (0.1, 0.45))
    canvas.fill(canvas.gradient([(0, mix(deep, (0.55, 0.85, 0.95), canvas.between(0.2, 0.7))), (1, deep)]))
    canvas.shade(1 + 0.15 * canvas.noise(3, 3))
    floor = canvas.ridge(canvas.between(0.6, 0.85), 0.12, 3)
    for layer in range(2):
        line = floor + 0.12 * layer
        canvas.fill(mix(canvas.hue(0.8, 1.15, (0.2, 0.7), (0.25, 0.6)), deep, 0.5 - 0.25 * layer), canvas.below(line))
    canvas.shade(1 + 0.3 * canvas.noise(10, 3) * canvas.below(floor))
    with canvas.pencil() as pencil:
        for _ in range(canvas.whole(3, 9)):  # branching corals
            x = canvas.between(0, ASPECT)
            foot = float(floor[min(int(x * 96), len(floor) - 1)]) + canvas.between(0, 0.25)
            colour = mix(canvas.hue(0.8, 1.2, (0.4, 0.9), (0.5, 1)), deep, canvas.between(0, 0.35))
            for angle in np.linspace(-0.9, 0.9, canvas.whole(4, 8)):
                length = canvas.between(0.08, 0.22)
                pencil.line([(x, foot), (x + length * np.sin(angle), foot - length * np.cos(angle))], colour, 0.02)
        shoal = canvas.hue(0, 1, (0.5, 1), (0.7, 1))
        for _ in range(canvas.whole(3, 14)):
            x, y, size = canvas.between(0, ASPECT), canvas.between(0.08, 0.7), canvas.between(0.025, 0.09)
            facing = 1 if canvas.chance(0.5) else -1
            colour = shoal if canvas.chance(0.7) else canvas.hue(0, 1, (0.5, 1), (0.7, 1))
            tail = x - facing * 1.5 * size
            pencil.polygon([(x, y), (tail, y - 0.6 * size), (tail, y + 0.6 * size)], colour)
            pencil.ellipse(x, y, size, 0.55 * size, colour)
            pencil.ellipse(x + facing * 0.6 * size, y - 0.1 * size, 0.13 * size, 0.13 * size, (0.05, 0.05, 0.1))


def icebergs(canvas: Canvas) -> None:
    """White and blue blocks on dark water."""
    day_sky(canvas, grey=True)
    horizon = canvas.between(0.35, 0.65)
    near = canvas.hue(0.5, 0.64, (0.3, 0.8), (0.12, 0.4))
    _water(canvas, horizon, mix(near, (0.6, 0.7, 0.75), 0.4), near)
    blue = canvas.hue(0.5, 0.58, (0.15, 0.5), (0.7, 0.95))
    for layer in range(canvas.whole(1, 4)):
        foot, size = horizon + 0.02 + 0.1 * layer * canvas.between(0.5, 1), canvas.between(0.12, 0.4)
        x, half = canvas.between(0, ASPECT), size * canvas.between(0.6, 1.6)
        line = canvas.ridge(0, 0.45 * size, canvas.between(4, 9), 3)
        profile = foot - size * np.clip(1.2 - np.abs(canvas.x - x) / half, 0, 0.8) + line * 0.8
        berg = soft(canvas.y - profile, 0.01) * soft(foot - canvas.y, 0.008) * soft(half - np.abs(canvas.x - x), 0.02)
        facets = soft(canvas.noise(canvas.between(5, 9), 2) + canvas.between(-1, 1) * (canvas.x - x), 0.15)
        canvas.fill(mix((0.95, 0.98, 1), blue, 0.15), berg)
        canvas.fill(blue, berg * facets * 0.8)
        mirrored = soft(canvas.y - foot, 0.008) * soft(half - np.abs(canvas.x - x), 0.04)
        canvas.fill((0.85, 0.92, 0.96), mirrored * np.clip(1 - (canvas.y - foot) / (0.6 * size), 0, 1) * 0.4)


def _water(canvas: Canvas, horizon: float, far: Floats, near: Floats) -> None:
    surface = canvas.gradient([(horizon, far), (1, near)])
    canvas.fill(surface, canvas.below(horizon, 0.004))
    canvas.shade(1 + 0.12 * _waves(canvas, horizon, canvas.between(8, 16)) * canvas.below(horizon, 0.004))


def _waves(canvas: Canvas, horizon: float, cells: float) -> Floats:
    """Noise that flattens towards the horizon, about -1 to 1."""
    depth = np.maximum(canvas.y - horizon, 0.003) / (1 - horizon)
    rows = np.clip((np.sqrt(depth) * 95).astype(int), 0, 95)
    return np.take_along_axis(canvas.noise(cells, 2, stretch=canvas.between(3, 6)), rows, axis=0)


def _palm(canvas: Canvas, x: float, top: float, colour: Colour, foot: float = 1.0) -> None:
    shade = np.asarray(colour, np.float32)
    lean = canvas.between(-0.15, 0.15)
    with canvas.pencil() as pencil:
        pencil.line([(x + lean, foot), (x + 0.3 * lean, (top + foot) / 2), (x, top)], shade, 0.025)
        for angle in np.linspace(-0.6, np.pi + 0.6, canvas.whole(6, 10)):
            length = canvas.between(0.18, 0.3)
            pencil.leaf(x, top, length, -angle + canvas.between(-0.15, 0.15), 0.22, shade)
