"""Scenes people built: skyline, city at night, brick wall, windows of a facade, a crowd."""

from __future__ import annotations

import numpy as np

from timm_gam.data.synthetic.canvas import ASPECT, Canvas, Colour, Floats, Pencil, mix, soft
from timm_gam.data.synthetic.sky import day_sky


def skyline(canvas: Canvas) -> None:
    """Towers by day."""
    day_sky(canvas)
    with canvas.pencil() as pencil:
        for layer in range(canvas.whole(1, 3)):
            tint = canvas.hue(0.0, 1.0, (0, 0.25), (0.4, 0.85))
            _towers(canvas, pencil, 0.35 + 0.15 * layer, mix(tint, (0.8, 0.85, 0.9), 0.3 - 0.1 * layer), 0.0)
        if canvas.chance(0.5):
            pencil.rectangle(0, canvas.between(0.88, 0.95), ASPECT, 1, canvas.hue(0.1, 0.6, (0.1, 0.5), (0.2, 0.5)))


def night_city(canvas: Canvas) -> None:
    """Lit windows under a dark sky, often mirrored in water."""
    night = canvas.hue(0.58, 0.85, (0.4, 0.9), (0.02, 0.25))
    canvas.fill(canvas.gradient([(0, night), (0.8, mix(night, canvas.hue(0.0, 0.15, (0.4, 0.8), (0.4, 0.8)), 0.5))]))
    with canvas.pencil() as pencil:
        for layer in range(canvas.whole(1, 3)):
            wall = mix(night, canvas.hue(0, 1, (0, 0.4), (0.05, 0.2)), 0.6)
            _towers(canvas, pencil, 0.3 + 0.17 * layer, wall, canvas.between(0.35, 0.8))
    if canvas.chance(0.6):
        level = canvas.between(0.62, 0.85)
        row = int(level * 96)
        rows = np.clip(2 * row - np.arange(96), 0, 95)[:, None] + (2 * canvas.noise(20, 1)).astype(int)
        mirrored = np.take_along_axis(canvas.pixels, np.clip(rows, 0, 95)[..., None], axis=0)
        canvas.fill(mirrored * 0.65, canvas.below(level))
    glow = canvas.hue(0.05, 0.16, (0.4, 0.8), (0.9, 1))
    for _ in range(canvas.whole(0, 6)):
        canvas.fill(glow, 0.8 * canvas.disc(canvas.between(0, ASPECT), canvas.between(0.55, 0.95), 0.006, 0.035))


def brick_wall(canvas: Canvas) -> None:
    """Bricks in bond, seen straight or aslant."""
    turn, shear = canvas.between(-0.25, 0.25), canvas.between(-0.3, 0.3)
    height = canvas.between(0.06, 0.16)
    depth = 1 + shear * (canvas.x - ASPECT / 2)
    u = (canvas.x * np.cos(turn) + canvas.y * np.sin(turn)) / depth / (height * canvas.between(1.9, 2.8))
    v = (-canvas.x * np.sin(turn) + canvas.y * np.cos(turn)) / depth / height
    course = np.floor(v).astype(int)
    u = u + 0.5 * (course % 2)
    joint = canvas.between(0.03, 0.07)
    inside = soft(0.5 - joint - np.abs(u % 1 - 0.5), 0.03) * soft(0.5 - 1.8 * joint - np.abs(v % 1 - 0.5), 0.06)
    tones = canvas.rng.normal(0, canvas.between(0.05, 0.15), 997).astype(np.float32)
    each = tones[(np.floor(u).astype(int) * 31 + course * 57) % 997]
    brick = canvas.hue(0.98, 1.1, (0.2, 0.75), (0.35, 0.8))
    canvas.fill(canvas.hue(0.05, 0.15, (0, 0.2), (0.4, 0.9)))
    canvas.fill(brick * (1 + each + 0.12 * canvas.noise(30, 2))[..., None], inside)
    canvas.shade(1 + canvas.between(0, 0.4) * canvas.noise(1.5, 2))


def facade(canvas: Canvas) -> None:
    """Rows of windows in a coloured wall."""
    wall = canvas.hue(0, 1, (0.05, 0.6), (0.45, 0.95))
    canvas.fill(wall)
    canvas.shade(1 + 0.06 * canvas.noise(12, 3))
    glass, frame = canvas.hue(0.5, 0.7, (0.1, 0.5), (0.1, 0.5)), mix(wall, (1, 1, 1), canvas.between(0.4, 1))
    shutter = canvas.hue(0, 1, (0.3, 0.9), (0.2, 0.6)) if canvas.chance(0.5) else None
    columns, rows, slant = canvas.whole(2, 6), canvas.whole(2, 4), canvas.between(-0.12, 0.12)
    w, h = ASPECT / columns, 1 / rows
    left, top = canvas.between(-0.3, 0) * w, canvas.between(-0.3, 0) * h
    half, tall = w * canvas.between(0.18, 0.28), h * canvas.between(0.25, 0.36)
    with canvas.pencil() as pencil:
        for row in range(rows + 1):
            for column in range(columns + 1):
                x, y = left + (column + 0.5) * w, top + (row + 0.5) * h
                y += slant * (x - ASPECT / 2) * (0.5 - y)
                if shutter is not None:
                    pencil.rectangle(x - 1.8 * half, y - tall, x + 1.8 * half, y + tall, shutter)
                pencil.rectangle(x - 1.15 * half, y - 1.08 * tall, x + 1.15 * half, y + 1.08 * tall, frame)
                pane = mix(glass, (0.8, 0.9, 1), canvas.between(0, 0.3))
                pencil.rectangle(x - half, y - tall, x + half, y + tall, pane)
                pencil.rectangle(x - 0.07 * half, y - tall, x + 0.07 * half, y + tall, frame)
                pencil.rectangle(x - half, y - 0.25 * tall, x + half, y - 0.17 * tall, frame)
            pencil.rectangle(0, top + row * h, ASPECT, top + row * h + 0.012, mix(wall, (0, 0, 0), 0.25), 0.6)


def crowd(canvas: Canvas) -> None:
    """Many heads and coats, smaller towards the back."""
    canvas.fill(canvas.hue(0, 1, (0, 0.3), (0.2, 0.6)))
    size, depth = canvas.between(0.03, 0.06), canvas.between(0.02, 0.07)
    y = canvas.between(-0.05, 0.3)
    variety = canvas.between(0.3, 1)
    coat = canvas.hue(0, 1, (0.2, 0.9), (0.3, 0.9))
    with canvas.pencil() as pencil:
        while y < 1.1:
            scale = size + depth * max(y, 0)
            for x in np.arange(-scale * canvas.between(0, 2), ASPECT + scale, 2.1 * scale):
                px, py = x + canvas.between(-0.4, 0.4) * scale, y + canvas.between(-0.3, 0.3) * scale
                colour = mix(coat, canvas.hue(0, 1, (0.1, 1), (0.1, 1)), variety)
                skin = canvas.hue(0.04, 0.09, (0.25, 0.6), (0.35, 0.95))
                pencil.ellipse(px, py + 1.7 * scale, 1.05 * scale, 1.1 * scale, colour)
                pencil.ellipse(px, py, 0.62 * scale, 0.75 * scale, skin)
                hair = canvas.hue(0.02, 0.12, (0.2, 0.7), (0.03, 0.5))
                pencil.ellipse(px, py - 0.35 * scale, 0.62 * scale, 0.45 * scale, hair)
            y += 1.5 * scale


def _towers(canvas: Canvas, pencil: Pencil, level: float, wall: Floats, lit: float) -> None:
    """A row of towers; `lit` is the share of windows with light, 0 by day."""
    x = -canvas.between(0, 0.1)
    lamp = canvas.hue(0.08, 0.17, (0.2, 0.7), (0.85, 1))
    while x < ASPECT:
        width, top = canvas.between(0.08, 0.24), level + canvas.between(-0.25, 0.2)
        shade: Colour = mix(wall, (0, 0, 0), canvas.between(0, 0.35))
        pencil.rectangle(x, top, x + width, 1, shade)
        if canvas.chance(0.2):
            pencil.line([(x + width / 2, top), (x + width / 2, top - 0.1)], shade, 0.01)
        pitch = canvas.between(0.028, 0.045)
        for wx in np.arange(x + 0.3 * pitch, x + width - 0.6 * pitch, pitch):
            for wy in np.arange(top + 0.4 * pitch, 1, 1.3 * pitch):
                if lit == 0:
                    pencil.rectangle(wx, wy, wx + 0.5 * pitch, wy + 0.7 * pitch, mix(shade, (0.1, 0.15, 0.25), 0.6))
                elif canvas.rng.random() < lit:
                    pencil.rectangle(wx, wy, wx + 0.5 * pitch, wy + 0.6 * pitch, lamp)
        x += width + canvas.between(-0.02, 0.04)
