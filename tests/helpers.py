"""Small image folders made at test time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_class_folders(root: Path, classes: int = 3, images: int = 4, side: int = 40, suffix: str = ".jpg") -> Path:
    """CLASS/NUMBER.jpg: each class has its own mean colour, each image its own noise."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 200, 3)
        for number in range(images):
            pixels = colour + rng.integers(0, 55, (side, side, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}{suffix}")
    return root
