"""Decode every image of a folder as the commands do, and compare with Pillow's own decoding.

    python benchmarks/images/image_corpus.py Pillow/Tests/images
    python benchmarks/images/image_corpus.py FOLDER --slow 2 --list

right: the same pixels as an independent decode in RGB; refused: one line says why; wrong: other pixels, or an error
that is not the project's; slow: more than --slow seconds of processor time. What is wrong is named; then the exit code
is 1.
"""

from __future__ import annotations

import collections
import io
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from timm.data.readers.img_extensions import get_img_extensions

from timm_gam.core import CommandParser, DataError, UnreadableImageError, printable, run_command, silent_libraries
from timm_gam.data import ENDINGS, FORMATS
from timm_gam.images import load_image

_ENDINGS = (*ENDINGS, *get_img_extensions(), ".jp2", ".eps", ".ico", ".webp", ".mpo", ".tga", ".psd", ".pdf", ".j2k")


def independent(data: bytes) -> Image.Image:
    """Upright RGB pixels by Pillow alone; of 16-bit grey the upper 8 bits."""
    with silent_libraries(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            values = np.array([value >> 8 for value in upright.get_flattened_data()]).clip(0, 255)
            upright = Image.fromarray(values.reshape(upright.size[::-1]).astype(np.uint8))
        return upright.convert("RGB")


def judge(data: bytes) -> tuple[str, str, float]:
    """("right" | "refused" | "wrong", why, seconds of processor time)."""
    began = time.process_time()
    try:
        image, _ = load_image(data, "it")
    except UnreadableImageError as error:
        return "refused", error.reason, time.process_time() - began
    except Exception as error:  # the very thing that is looked for
        return "wrong", f"{type(error).__name__}: {error}", time.process_time() - began
    seconds = time.process_time() - began
    try:
        other = independent(data)
    except Exception as error:
        return "wrong", f"Pillow refuses it: {error}", seconds
    same = other.size == image.size and other.tobytes() == image.tobytes()
    return ("right", "", seconds) if same else ("wrong", f"{image.size} against {other.size}, or other pixels", seconds)


def main() -> int:
    """0; 1 where something is wrong; 2 bad input."""
    parser = CommandParser(
        "python benchmarks/images/image_corpus.py", "Decode every image of a folder.", "see the module"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="any folder, with its subfolders")
    parser.add_argument("--slow", type=float, default=2, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="name every refused file too")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()

    def run() -> None:
        warnings.simplefilter("ignore")
        files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
        if not files:
            raise DataError(f"'{args.folder}' holds no files of images; name a folder of images")
        for path in files:
            verdict, why, seconds = judge(path.read_bytes())
            slow = seconds > args.slow
            counts.update([verdict, *(["slow"] if slow else [])])
            if verdict == "wrong" or slow or (args.list and why):
                print(printable(f"{verdict:<8} {seconds:6.2f} s  {path.relative_to(args.folder)}  {why}"))
        print(
            f"{len(files):,} files: "
            + ", ".join(f"{counts[kind]:,} {kind}" for kind in ("right", "refused", "wrong", "slow"))
        )

    return run_command(run) or int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
