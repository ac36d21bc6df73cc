"""Small image folders, and pictures, made at test time; a free port."""

from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


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


def picture(seed: int) -> Image.Image:
    """Smooth random shapes, as a photograph has them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((180, 120), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    """As JPEG, and opened again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def score_command(photos: Path) -> list[str]:
    """Options of `eval.retrieval` that score a folder soon, by a network of the package."""
    return ["--model", "test_resnet.corel", "--data-dir", str(photos), "--interval", "none", "--img-size", "32"]


_HELD: list[socket.socket] = []


def free_port() -> int:
    """Of the loopback interface, where nothing listens, and for a server that allows SO_REUSEADDR, as servers do.

    On Linux it stays bound until this process ends, so that no socket of another test gets it by chance meanwhile.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    port = int(bound.getsockname()[1])
    if sys.platform == "linux":
        _HELD.append(bound)
    else:
        bound.close()
    return port
