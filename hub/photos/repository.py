"""A folder of photographs -> the files of a Hub data set: parquet shards of the files' own bytes, and the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hub.photos.audit import Audit
from hub.photos.card import THUMBNAILS_NAME, render_dataset_card
from timm_gam.core import atomic_path, write_json, write_text
from timm_gam.images import picture_grid, small_picture

_THUMBNAILS, _COLUMNS = 14, 7
_SHARD_BYTES = 250_000_000  # of image files; a shard is in memory while it is written


def write_dataset_repository(folder: Path, audit: Audit, repo_id: str, license: str) -> None:
    """Write data/SPLIT-*.parquet, README.md with thumbnails and audit.json to a folder.

    The same photographs give the same bytes. Images are stored as the bytes of their files, never encoded anew, under
    the ids they have in the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = _features(audit)
    splits = sorted(set(audit.splits), key=lambda split: (split != "train", split))
    sizes = {}
    for split in splits:
        shards = _plan_shards(audit, audit.rows[np.array([s == split for s in audit.splits])])
        names = [f"data/{split}-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))]
        sizes[split] = sum(
            _write_shard(folder / name, audit, rows, features) for name, rows in zip(names, shards, strict=True)
        )
    _write_thumbnails(folder / THUMBNAILS_NAME, audit)
    write_text(folder / "README.md", render_dataset_card(audit, features, sizes, repo_id, license))
    write_json(folder / "audit.json", audit.as_dict())


def _write_thumbnails(path: Path, audit: Audit) -> None:
    """The first photograph of up to 14 classes, spread over all of them."""
    _, first = np.unique(audit.images.labels[audit.rows], return_index=True)
    spread = np.linspace(0, len(first) - 1, min(_THUMBNAILS, len(first))).round().astype(np.int64)
    rows = sorted(audit.rows[first[spread]].tolist())
    pictures: list[tuple[Image.Image, str | None]] = [
        (small_picture(encoded, audit.images.ids[row], side=144), None)
        for row, encoded in audit.images.reader.read(rows)
    ]
    lines = [pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)]
    with atomic_path(path) as temporary:
        picture_grid(lines).save(temporary, "webp", quality=80)


def _features(audit: Audit) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(audit.images.class_names)),
        }
    )


def _plan_shards(audit: Audit, rows: NDArray[np.int64]) -> list[list[int]]:
    """Rows shard by shard, in order, each shard below `_SHARD_BYTES` or of one image."""
    shards: list[list[int]] = []
    size = _SHARD_BYTES
    for row, encoded in audit.images.reader.read(rows.tolist()):
        length = encoded.stat().st_size  # type: ignore[union-attr]  # a folder gives paths
        if size + length > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(row)
        size += length
    return shards


def _write_shard(path: Path, audit: Audit, rows: list[int], features: Any) -> int:
    """Write one parquet file; returns its size in bytes."""
    import datasets

    ids = [audit.images.ids[row] for row in rows]
    files = [encoded.read_bytes() for _, encoded in audit.images.reader.read(rows)]  # type: ignore[union-attr]
    columns = {
        "id": ids,
        "image": [{"bytes": data, "path": name.rpartition("/")[2]} for name, data in zip(ids, files, strict=True)],
        "label": [int(audit.images.labels[row]) for row in rows],
    }
    with atomic_path(path) as temporary:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(temporary)
    return path.stat().st_size
