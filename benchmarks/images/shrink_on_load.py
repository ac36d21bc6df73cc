"""What `--shrink-on-load` does to scores, beside the least that can be done to pixels of 8 bits.

    python benchmarks/images/shrink_on_load.py --data-dir photos --model mobilenetv2_100 --checkpoint FILE \\
        --img-size 48 --record benchmarks/results/shrink_on_load.json

Makes a JPEG file of each photograph, just large enough to be shrunk, and scores all of them leave-one-out three times:
decoded whole; shrunk on load; and whole, but for one step up or down, at random, in as many pixel values as shrinking
changes. Enlarged photographs lack the fine detail of large ones, so each is given grain (`--grain`), drawn anew in each
of the replicates. A metric's change is reported as its mean over the replicates and the standard error of that mean. A
replicate is written to the record when it is done, and not done again.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import multiprocessing
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import eval as evaluation
from timm_gam.data import ImageReader, ImageSet
from timm_gam.images import SHRINK_MARGIN, Preprocessing, load_image

Pixels = NDArray[np.uint8]

SHRUNK_BY = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--img-size", type=int, default=48)
    parser.add_argument("--grain", type=float, default=12.0, help="standard deviation, of 255 (default: %(default)s)")
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    images = evaluation.read_folder(args.data_dir)
    loaded = evaluation.load_model(args.model, checkpoint=args.checkpoint)
    whole = evaluation.resolve_preprocessing(loaded.model, img_size=args.img_size)
    network = evaluation.embedding_network(loaded.model)

    def score(pixels: Pixels) -> dict[str, float]:
        averages = evaluation.score_retrieval(embed(network, whole, pixels), images.labels, intervals="none").averages
        return {name: float(average.micro) for name, average in averages.items()}

    facts: dict[str, Any] = {
        "what": f"{len(images)} photographs of {images.name}, enlarged, grain {args.grain:g}, leave-one-out",
        "model": args.model,
        "preprocessing": whole.as_dict(),
        "margin": SHRINK_MARGIN,
        "shrunk_by": SHRUNK_BY,
        "pillow": PIL.__version__,
    }
    record = json.loads(args.record.read_text()) if args.record.exists() else {}
    if not facts.items() <= record.items():  # there is none, or of something else
        record = {**facts, "replicates": {}}
    for seed in range(args.replicates):
        if str(seed) not in record["replicates"]:
            record["replicates"][str(seed)] = replicate(images, whole, args.grain, seed, score)
            record["change"] = summary(list(record["replicates"].values()))
            args.record.write_text(json.dumps(record, indent=1) + "\n")
    for way in ("shrunk", "one_step"):
        name, change = max(record["change"][way].items(), key=lambda item: abs(item[1]["mean"]))
        of_map = record["change"][way]["map"]
        print(f"{way:9} map {of_map['mean']:+.6f} +- {of_map['standard_error']:.6f}; ", end="")
        print(f"most, {name}: {change['mean']:+.6f} +- {change['standard_error']:.6f}")


def replicate(
    images: ImageSet, whole: Preprocessing, grain: float, seed: int, score: Callable[[Pixels], dict[str, float]]
) -> dict[str, Any]:
    """The metrics of whole photographs, and their changes by shrinking and by single steps."""
    make = functools.partial(decoded_twice, reader=images.reader, preprocessing=whole, grain=grain, seed=seed)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.map(make, range(len(images)), images.ids, chunksize=32)
        pairs = list(tqdm(made, total=len(images), desc=f"replicate {seed}"))
    first, second = (np.stack(side) for side in zip(*pairs, strict=True))
    difference = second.astype(np.int16) - first
    rng = np.random.default_rng(seed)
    changed = float((difference != 0).mean())
    steps = (rng.random(first.shape) < changed) * rng.choice(np.array([-1, 1], dtype=np.int16), size=first.shape)
    stepped = np.clip(first + steps, 0, 255).astype(np.uint8)
    metrics, shrunk, one_step = score(first), score(second), score(stepped)
    return {
        "changed_pixel_values": changed,
        "rms_difference": float(np.sqrt((difference.astype(np.float32) ** 2).mean())),
        "whole": metrics,
        "shrunk": {name: shrunk[name] - metrics[name] for name in metrics},
        "one_step": {name: one_step[name] - metrics[name] for name in metrics},
    }


def decoded_twice(
    index: int, image_id: str, reader: ImageReader, preprocessing: Preprocessing, grain: float, seed: int
) -> tuple[Pixels, Pixels]:
    """(H, W, 3) input pixels of a photograph made large: decoded whole, and shrunk on load."""
    torch.set_num_threads(1)
    ((_, encoded),) = reader.read([index])
    image, _ = load_image(encoded, image_id)
    input_side = min(preprocessing.input_size[1:]) / preprocessing.crop_pct
    times = SHRUNK_BY * SHRINK_MARGIN * input_side / min(image.size)
    width, height = (16 * -(-side * times // 16) for side in image.size)
    rng = np.random.default_rng([seed, zlib.crc32(Path(image_id).name.encode())])
    values = np.asarray(image.resize((int(width), int(height)), Image.Resampling.BICUBIC), dtype=np.float32)
    grained = np.clip(values + rng.normal(scale=grain, size=values.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grained).save(buffer, "JPEG", quality=92)
    if preprocessing.shrink(int(width), int(height)) != SHRUNK_BY:
        raise SystemExit(f"error: {image_id}: {width:g} x {height:g} is not shrunk by {SHRUNK_BY}")
    transform = preprocessing.pixels()
    first, second = (
        np.asarray(transform(load_image(buffer.getvalue(), image_id, shrink)[0])).transpose(1, 2, 0)
        for shrink in (None, preprocessing.shrink)
    )
    return first, second


def embed(network: torch.nn.Module, preprocessing: Preprocessing, pixels: Pixels) -> NDArray[np.float32]:
    with torch.inference_mode():
        batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(256)
        return torch.cat([network(preprocessing.normalise(batch.contiguous())) for batch in batches]).numpy()


def summary(replicates: list[dict[str, Any]]) -> dict[str, Any]:
    def of(changes: list[float]) -> dict[str, float]:
        error = np.std(changes, ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else np.nan
        return {"mean": float(np.mean(changes)), "standard_error": float(np.nan_to_num(error))}

    return {
        way: {name: of([one[way][name] for one in replicates]) for name in replicates[0][way]}
        for way in ("shrunk", "one_step")
    }


if __name__ == "__main__":
    main()
