"""What `--shrink-on-load` does to scores: each case scored leave-one-out twice, whole and shrunk on load.

    python benchmarks/shrink_on_load.py --data-dir photos --model mobilenetv2_100 --checkpoint FILE \\
        --img-size 32 --crop-pct 1.0 --record benchmarks/results/shrink_on_load.json

`--enlarge N` makes N times larger JPEG files of the photographs first, for sets that are too small to be shrunk at
usual inputs: a test of the path, less hard than photographs of that size, whose details an enlarged one lacks. The
record is a list to which each call adds a case.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL

import eval as evaluation
from eval.decoding import load_image
from eval.images import ImageReader
from eval.preprocessing import SHRINK_MARGIN


@dataclasses.dataclass(frozen=True)
class Enlarged:
    reader: ImageReader
    times: int
    parallel: bool = True

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for index, encoded in self.reader.read(indices):
            image, _ = load_image(encoded, str(index))
            buffer = io.BytesIO()
            image.resize((image.width * self.times, image.height * self.times)).save(buffer, "JPEG", quality=92)
            yield index, buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--img-size", type=int, required=True)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="take every Nth photograph")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    images = evaluation.read_folder(args.data_dir)
    if args.enlarge > 1:
        images = dataclasses.replace(images, reader=Enlarged(images.reader, args.enlarge))
    rows = np.arange(0, len(images), args.every)
    loaded = evaluation.load_model(args.model, checkpoint=args.checkpoint)
    whole = evaluation.resolve_preprocessing(loaded.model, img_size=args.img_size, crop_pct=args.crop_pct)
    network = evaluation.embedding_network(loaded.model)
    scores = []
    for preprocessing in (whole, dataclasses.replace(whole, shrink_on_load=True)):
        embeddings = evaluation.embed_images(network, images, preprocessing, rows=rows)
        averages = evaluation.score_retrieval(embeddings.vectors, images.labels[rows], replicates=0).averages
        scores.append({name: float(average.micro) for name, average in averages.items()})
    size = load_image(next(images.reader.read([0]))[1], "first")[0].size
    change = {name: scores[1][name] - scores[0][name] for name in scores[0]}
    case = {
        "data": images.name,
        "enlarged": args.enlarge,
        "images": len(rows),
        "first_image": size,
        "shrunk_by": whole.shrink(*size),
        "margin": SHRINK_MARGIN,
        "model": args.model,
        "img_size": args.img_size,
        "crop_pct": whole.crop_pct,
        "map": scores[0]["map"],
        "largest_change": max(map(abs, change.values())),
        "change": {name: change[name] for name in ("map", "hit@1", "hit@10", "precision@10")},
        "pillow": PIL.__version__,
    }
    print(json.dumps(case, indent=1))
    if args.record:
        record = json.loads(args.record.read_text()) if args.record.exists() else []
        args.record.write_text(json.dumps([*record, case], indent=1) + "\n")


if __name__ == "__main__":
    main()
