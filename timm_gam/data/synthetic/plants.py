"""Scenes of plants: a flower, a meadow, foliage, mushrooms."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, Floats, Pencil, mix, soft
from timm_gam.data.synthetic.sky import day_sky


def flower(canvas: Canvas) -> None:
    """One to three blossoms close up before blurred green."""
    _blurred_green(canvas)
    colour = canvas.hue(0.75, 1.17, (0.3, 0.95), (0.7, 1))
    petals, breadth = canvas.whole(5, 14), canvas.between(0.3, 0.7)
    with canvas.pencil() as pencil:
        for _ in range(canvas.whole(1, 3)):
            x, y, size = canvas.between(0.35, ASPECT - 0.35), canvas.between(0.3, 0.6), canvas.between(0.22, 0.5)
            stem = canvas.hue(0.22, 0.36, (0.4, 0.8), (0.2, 0.5))
            pencil.line([(x, y), (x + canvas.between(-0.2, 0.2), 1.05)], stem, 0.03)
            _blossom(canvas, pencil, x, y, size, colour, petals, breadth)


def meadow(canvas: Canvas) -> None:
    """Many small blossoms in grass."""
    green = canvas.hue(0.2, 0.36, (0.45, 0.85), (0.25, 0.6))
    horizon = canvas.between(-0.3, 0.4)
    day_sky(canvas)
    canvas.fill(green, canvas.below(horizon))
    canvas.shade(1 + 0.3 * canvas.noise(12, 3) * canvas.below(horizon))
    colours = [canvas.hue(0, 1, (0.2, 0.95), (0.75, 1)) for _ in range(canvas.whole(1, 3))]
    with canvas.pencil() as pencil:
        for y in np.sort(canvas.rng.uniform(horizon, 1.05, 170)):
            x, near = canvas.between(0, ASPECT), (y - horizon) / (1.05 - horizon)
            blade = mix(green, canvas.hue(0.18, 0.34, (0.4, 0.9), (0.2, 0.8)), 0.8)
            height = 0.03 + 0.12 * near
            pencil.line([(x, y), (x + canvas.between(-0.05, 0.05), y - height)], blade, 0.006 + 0.008 * near)
            if canvas.chance(0.55):
                size = 0.007 + 0.03 * near * canvas.between(0.6, 1.2)
                blossom = colours[canvas.whole(0, len(colours) - 1)]
                pencil.ellipse(x, y - height, size, size * canvas.between(0.6, 1), blossom)
                pencil.ellipse(x, y - height, 0.35 * size, 0.3 * size, mix(blossom, (0.4, 0.25, 0), 0.6))


def foliage(canvas: Canvas) -> None:
    """Overlapping leaves that fill the picture."""
    leaf = canvas.hue(0.18, 0.42, (0.4, 0.9), (0.25, 0.75))
    canvas.fill(mix(leaf, (0, 0.02, 0), 0.75))
    length, breadth = canvas.between(0.15, 0.45), canvas.between(0.25, 0.65)
    heading, spread = canvas.between(0, 2 * np.pi), canvas.between(0.4, 3)
    vein = canvas.between(0.1, 0.5)
    with canvas.pencil() as pencil:
        for _ in range(round(14 / length)):
            x, y = canvas.between(-0.2, ASPECT + 0.1), canvas.between(-0.2, 1.1)
            angle, size = heading + canvas.between(-spread, spread), length * canvas.between(0.7, 1.2)
            shade = mix(mix(leaf, (0, 0, 0), canvas.between(0, 0.5)), (0.9, 1, 0.6), canvas.between(0, 0.2))
            pencil.leaf(x, y, size, angle, breadth, shade)
            tip = (x + size * np.cos(angle), y + size * np.sin(angle))
            pencil.line([(x, y), tip], mix(shade, (0.9, 1, 0.7), vein), 0.008)
    canvas.shade(1 + 0.2 * canvas.noise(3, 3))


def mushrooms(canvas: Canvas) -> None:
    """Caps on stems in litter."""
    ground = canvas.hue(0.05, 0.3, (0.3, 0.7), (0.15, 0.4))
    canvas.fill(canvas.gradient([(0, mix(ground, (0.05, 0.1, 0.05), 0.5)), (1, ground)]))
    canvas.shade(1 + 0.35 * canvas.noise(14, 3))
    cap = canvas.hue(0.97, 1.14, (0.2, 0.9), (0.45, 0.95))
    spots = canvas.chance(0.5)
    roundness = canvas.between(0.5, 1)
    with canvas.pencil() as pencil:
        for size in sorted(canvas.between(0.1, 0.3) for _ in range(canvas.whole(1, 6))):
            x, foot = canvas.between(0.1, ASPECT - 0.1), canvas.between(0.75, 0.98)
            top = foot - size * canvas.between(0.9, 1.8)
            stem = canvas.hue(0.08, 0.15, (0.05, 0.3), (0.75, 0.98))
            half = 0.2 * size
            pencil.polygon([(x - half, top), (x + half, top), (x + 1.3 * half, foot), (x - 1.3 * half, foot)], stem)
            arc = np.linspace(np.pi, 2 * np.pi, 20)
            dome = list(zip(x + size * np.cos(arc), top + 0.1 * size + roundness * size * np.sin(arc), strict=True))
            pencil.polygon(dome, cap)
            pencil.ellipse(x, top + 0.1 * size, size, 0.14 * size, mix(cap, (0.3, 0.2, 0.1), 0.4))
            for _ in range(canvas.whole(5, 12) if spots else 0):
                turn, reach = canvas.between(1.1, 1.9) * np.pi, canvas.between(0.2, 0.85)
                dx, dy = size * reach * np.cos(turn), roundness * size * reach * np.sin(turn)
                pencil.ellipse(x + dx, top + dy + 0.02, 0.09 * size, 0.07 * size, (0.97, 0.95, 0.9))
    canvas.fill(mix(ground, (0.3, 0.4, 0.1), 0.4), canvas.below(canvas.ridge(0.93, 0.04, 8, 3)))


def _blurred_green(canvas: Canvas) -> None:
    dark = canvas.hue(0.2, 0.45, (0.3, 0.8), (0.08, 0.4))
    canvas.fill(dark)
    canvas.fill(canvas.hue(0.15, 0.4, (0.3, 0.8), (0.3, 0.7)), soft(canvas.noise(3, 2), 0.8))


def _blossom(
    canvas: Canvas, pencil: Pencil, x: float, y: float, size: float, colour: Floats, petals: int, breadth: float
) -> None:
    turn = canvas.between(0, 2 * np.pi)
    for ring, share in enumerate((1.0, 0.7)):
        for angle in np.linspace(0, 2 * np.pi, petals, endpoint=False) + turn + 0.3 * ring:
            shade = mix(mix(colour, (1, 1, 1), 0.2 * ring), (0, 0, 0), canvas.between(0, 0.25))
            pencil.leaf(x, y, size * share * canvas.between(0.9, 1.05), angle, breadth, shade)
    heart = canvas.hue(0.08, 0.17, (0.6, 1), (0.3, 1))
    pencil.ellipse(x, y, 0.2 * size, 0.2 * size, heart)
    for _ in range(20):
        dx, dy = canvas.rng.uniform(-0.15, 0.15, 2) * size
        pencil.ellipse(x + dx, y + dy, 0.02 * size, 0.02 * size, mix(heart, (0.2, 0.1, 0), 0.7))
