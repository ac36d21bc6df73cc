"""Memory of the whole embedding pipeline, main and loader processes, as the number of images grows (Linux).

    python benchmarks/images/embedding_memory.py --record benchmarks/results/embedding_memory.json

A folder of hard links to a few drawn JPEG files the size of COREL thumbnails, embedded by a tiny network. Memory is the
proportional set size of the process tree, so that a page shared by several processes counts once; the embeddings
themselves, N x D float32 and filled as the run goes on, are taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
from PIL import Image

import eval as evaluation
from timm_gam.data import draw_synthetic
from timm_gam.embed import EmbedSettings

MB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    loaded = evaluation.load_model("test_resnet", pretrained=False)
    network = evaluation.embedding_network(loaded.model)
    preprocessing = evaluation.resolve_preprocessing(loaded.model, img_size=32)
    with tempfile.TemporaryDirectory() as folder:
        images = evaluation.read_folder(write_links(Path(folder), max(args.images)))
        peaks = measure(network, images, preprocessing, args.images, args.batch_size, args.workers)
    record = {
        "peak_mb_by_images": peaks,
        "workers": args.workers,
        "batch_size": args.batch_size,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "pillow": PIL.__version__,
        },
    }
    print(json.dumps(record, indent=1))
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


def measure(network, images, preprocessing, counts: list[int], batch_size: int, workers: int) -> dict[str, float]:
    """Highest memory in MB up to each count of images, within one run; sampled every 500 images."""
    width = int(network(torch.zeros(1, *preprocessing.input_size)).shape[1])
    done, sampled, peak = 0, 0, 0.0
    peaks: dict[str, float] = {}

    def sample(more: int) -> None:
        nonlocal done, sampled, peak
        done += more
        if done - sampled >= 500 or done in counts:
            sampled = done
            peak = max(peak, (tree_memory() - done * width * 4) / MB)
        for count in counts:
            if done >= count:
                peaks.setdefault(str(count), round(peak, 1))

    evaluation.embed_images(
        network, images, preprocessing, EmbedSettings(batch_size=batch_size, workers=workers), on_progress=sample
    )
    return peaks


def tree_memory() -> int:
    """Proportional set size of this process and all below it, in bytes."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            waiting += [
                int(pid) for task in (process / "task").iterdir() for pid in (task / "children").read_text().split()
            ]
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def write_links(folder: Path, count: int) -> Path:
    """`count` images in 100 class folders, hard links to 200 JPEG files of 120 x 80."""
    synthetic = draw_synthetic()
    rows = np.linspace(0, len(synthetic) - 1, 200).astype(int).tolist()
    originals = []
    for row, image in synthetic.reader.read(rows):
        assert isinstance(image, Image.Image)
        originals.append(folder / f"{row}.jpg")
        image.resize((120, 80)).save(originals[-1], quality=90)
    for i in range(count):
        path = folder / "photos" / f"class{i % 100:02d}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(originals[i % len(originals)])
    return folder / "photos"


if __name__ == "__main__":
    main()
