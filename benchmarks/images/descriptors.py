"""A million real 512-d vectors from a folder of photographs, for benchmarks/scoring/approximate.py.

    python benchmarks/images/descriptors.py --data-dir coreldb --checkpoint FILE.safetensors --output descriptors
    python benchmarks/images/descriptors.py ... --windows 3 5 7 9 11 --output regions

Every photo gives the square windows of the last feature map (11 x 11 at 352 px), each averaged to a vector as the
network averages the whole map. Windows of 1 are local descriptors, larger ones embeddings of regions. A PCA fitted on
gallery photos takes them to `--dim`, and each is L2-normalised. Queries come from the photos that the published split
calls test, the gallery from the others, so no query's own photo is in the gallery. It writes gallery.npy, queries.npy
and descriptors.json; interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from timm_gam.core import atomic_path
from timm_gam.data import IMAGE_RULE, ImageSet, published_split, read_folder
from timm_gam.embed import EmbedSettings, embed_images
from timm_gam.images import Transform, resolve_preprocessing
from timm_gam.models import load_model

PART = 200  # photos whose descriptors are one file until all are made


class FeatureMap(nn.Module):
    """(B, 3, H, W) -> (B, places x channels): the feature map, averaged over every window of some sizes."""

    def __init__(self, model: nn.Module, windows: list[int]) -> None:
        super().__init__()
        self.model, self.windows = model, windows

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(x)
        pooled = [nn.functional.avg_pool2d(features, window, stride=1).flatten(2) for window in self.windows]
        return torch.cat(pooled, dim=2).transpose(1, 2).flatten(1)


class Describer:
    """Photos -> unit descriptors (photos, places, dim) float32."""

    def __init__(self, args: argparse.Namespace, images: ImageSet) -> None:
        loaded = load_model(args.model, checkpoint=args.checkpoint)
        self.images, self.weights = images, loaded.info.weights.sha256
        self.network, self.channels = FeatureMap(loaded.model, args.windows), int(loaded.model.num_features)
        preprocessing = resolve_preprocessing(
            loaded.model, img_size=args.img_size, crop_pct=1.0, crop_mode="squash", interpolation="bicubic"
        )
        self.transform: Transform = preprocessing.transform()
        self.mean, self.basis = torch.zeros(self.channels), torch.eye(self.channels)

    def raw(self, rows: NDArray[np.int64]) -> Tensor:
        """(photos, places, channels) float32 of ascending rows of the images."""
        made = embed_images(
            self.network,
            self.images,
            self.transform,
            EmbedSettings(amp_dtype=torch.bfloat16, channels_last=True),
            rows=rows,
        )
        return torch.from_numpy(made.vectors).unflatten(1, (-1, self.channels))

    def fit(self, rows: NDArray[np.int64], dim: int) -> None:
        """PCA on the descriptors of some photos."""
        vectors = self.raw(rows).flatten(0, 1).double()
        self.mean = vectors.mean(dim=0).float()
        covariance = torch.cov(vectors.T)
        self.basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim].float()

    def describe(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return nn.functional.normalize((self.raw(rows) - self.mean) @ self.basis, dim=-1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, metavar="PATH", help="a folder of class folders of photos")
    parser.add_argument("--model", default="mobilenetv2_100", help="a timm model (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="its safetensors weights")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--gallery", type=int, default=1_000_000, metavar="N", help="rows (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=10_000, metavar="N", help="rows (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--img-size", type=int, default=352)
    parser.add_argument("--windows", type=int, nargs="+", default=[1], metavar="N", help="sides of the windows")
    args = parser.parse_args()

    images = read_folder(args.data_dir)
    rng = np.random.default_rng(0)
    is_test = published_split(images.ids, images.labels)
    describer = Describer(args, images)
    made_by = {name: getattr(args, name) for name in ("model", "img_size", "dim", "windows")}
    parts = args.output / f"parts_{zlib.crc32(json.dumps([made_by, describer.weights]).encode()):08x}"
    parts.mkdir(parents=True, exist_ok=True)
    fit_pca(describer, np.flatnonzero(~is_test), parts / "pca.npz", args.dim, rng)
    for start in tqdm(range(0, len(images), PART), unit="part"):
        path = parts / f"{start:06d}.npy"
        if not path.exists():
            made = describer.describe(np.arange(start, min(start + PART, len(images))))
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, made)
    for name, of_split, count in (("queries", is_test, args.queries), ("gallery", ~is_test, args.gallery)):
        draw(parts, of_split, count, args.output / f"{name}.npy", rng)
    facts = {
        "what": f"{args.model} feature map at {args.img_size} px, PCA to {args.dim}, L2-normalised",
        "windows": args.windows,
        "photos": len(images),
        "photos_of_queries": int(is_test.sum()),
        "split_rule": IMAGE_RULE,
        "weights_sha256": describer.weights,
        "seed": 0,
    }
    (args.output / "descriptors.json").write_text(json.dumps(facts, indent=1) + "\n")


def fit_pca(describer: Describer, rows: NDArray[np.int64], path: Path, dim: int, rng: np.random.Generator) -> None:
    chosen = np.sort(rng.choice(rows, size=min(400, len(rows)), replace=False))
    if not path.exists():
        describer.fit(chosen, dim)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, mean=describer.mean.numpy(), basis=describer.basis.numpy())
    with np.load(path, allow_pickle=False) as kept:
        describer.mean, describer.basis = torch.from_numpy(kept["mean"]), torch.from_numpy(kept["basis"])


def draw(parts: Path, of_split: NDArray[np.bool_], count: int, path: Path, rng: np.random.Generator) -> None:
    """Write `count` descriptors of the photos of a split, in the order of the photos."""
    places, dim = np.load(parts / "000000.npy", mmap_mode="r").shape[1:]
    candidates = int(of_split.sum()) * places
    if candidates < count:
        raise SystemExit(f"{path.name}: {candidates} descriptors are there for {count}; raise --img-size or ask fewer")
    chosen = np.zeros(candidates, dtype=np.bool_)
    chosen[rng.choice(candidates, size=count, replace=False)] = True
    with atomic_path(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(count, dim))
        seen = written = 0
        for start in range(0, len(of_split), PART):
            part = np.load(parts / f"{start:06d}.npy", mmap_mode="r")
            rows = part[of_split[start : start + PART]].reshape(-1, dim)
            kept = rows[chosen[seen : seen + len(rows)]]
            out[written : written + len(kept)] = kept
            seen, written = seen + len(rows), written + len(kept)
        out.flush()


if __name__ == "__main__":
    main()
