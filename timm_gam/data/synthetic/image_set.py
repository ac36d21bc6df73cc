"""The labelled image set of scenes drawn by code, so that everything runs, and shows something, with no data.

Palette, light, composition, scale and viewpoint vary within a class, and neighbouring classes share colours or shapes
(open sea and icebergs, forest and autumn forest, skyline and city at night, flower and meadow). On it a network that
learned from photographs retrieves far better than one that learned nothing; it does not replace photographs, and its
name is on every output.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from timm_gam.data.image_set import ImageSet
from timm_gam.data.synthetic import land, plants, sky, surfaces, town, water
from timm_gam.data.synthetic.canvas import Canvas, soft

SYNTHETIC_NAME = "drawn-scenes (drawn by code, not photographs, not COREL)"

_DRAWN_BY: tuple[Callable[[Canvas], None], ...] = (
    *(water.open_sea, water.sunset, water.beach, water.waterfall, water.reef, water.icebergs),
    *(sky.clouds, sky.balloons, sky.fireworks, sky.planets),
    *(land.dunes, land.snow_peaks, land.canyon, land.fields, land.forest, land.autumn_forest),
    *(town.skyline, town.night_city, town.brick_wall, town.facade, town.crowd),
    *(plants.flower, plants.meadow, plants.foliage, plants.mushrooms),
    *(surfaces.tartan, surfaces.knitwear, surfaces.pebbles, surfaces.wood, surfaces.marble),
)
SCENES = {draw.__name__: draw for draw in _DRAWN_BY}
"""Class -> the function that draws one image of it."""


def draw_synthetic(images_per_class: int = 30) -> ImageSet:
    """The synthetic image set: 30 classes, ids "CLASS/0000", pixels drawn when read and the same in every process.

    Args:
        images_per_class: At least 1; image i of a class does not depend on how many there are.

    >>> images = draw_synthetic(2)
    >>> len(images), images.ids[:3]
    (60, ('open_sea/0000', 'open_sea/0001', 'sunset/0000'))
    >>> index, image = next(images.reader.read([0]))
    >>> image.size
    (144, 96)
    """
    ids = tuple(f"{name}/{number:04d}" for name in SCENES for number in range(images_per_class))
    labels = np.repeat(np.arange(len(SCENES), dtype=np.int64), images_per_class)
    return ImageSet(SYNTHETIC_NAME, ids, labels, tuple(SCENES), _SyntheticReader(ids))


@dataclass(frozen=True)
class _SyntheticReader:
    ids: tuple[str, ...]
    parallel: bool = True

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for index in indices:
            yield index, draw_scene(self.ids[index]).copy()


@functools.lru_cache(maxsize=1024)  # 42 kB each; drawing one takes 6 ms
def draw_scene(image_id: str) -> Image.Image:
    """One 144 x 96 RGB image; all of its randomness comes from the SHA-256 of its id, "CLASS/NUMBER"."""
    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little")
    canvas = Canvas(np.random.Generator(np.random.PCG64(seed)))
    SCENES[image_id.partition("/")[0]](canvas)
    _photograph(canvas)
    return canvas.image()


def _photograph(canvas: Canvas) -> None:
    """What a camera adds: exposure, white balance, contrast, saturation, vignette, grain."""
    pixels = np.clip(canvas.pixels, 0, 1)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + (pixels - grey) * canvas.between(0.5, 1.15)
    pixels = pixels * np.asarray([canvas.between(0.85, 1.12), 1, canvas.between(0.85, 1.12)], np.float32)
    pixels = np.clip(pixels, 0, 1) ** canvas.between(0.75, 1.4)
    canvas.pixels = (canvas.between(0, 0.06) + canvas.between(0.8, 1.0) * pixels).astype(np.float32)
    corner = np.hypot(canvas.x - 0.75, canvas.y - 0.5)
    canvas.shade(1 - canvas.between(0, 0.35) * soft(corner - 0.7, 0.3))
    canvas.pixels += canvas.rng.normal(0, canvas.between(0.005, 0.03), canvas.pixels.shape).astype(np.float32)
    if canvas.chance(0.5):
        canvas.pixels = np.ascontiguousarray(canvas.pixels[:, ::-1])
