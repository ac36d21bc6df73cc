"""What a folder of photographs holds, looked at before it is published: unreadable files, duplicates, sizes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, UnreadableImageError
from timm_gam.data import IMAGE_RULE, ImageSet, class_warnings, published_split
from timm_gam.images import DecodeLimits, alike_pairs, data_fingerprint, load_image, signature


@dataclass(frozen=True)
class Audit:
    """Facts about an image set, by row of it.

    Attributes:
        images: The set.
        rows: (N,) int64 rows that can be read, ascending; only these are published.
        splits: Split of each of them.
        split_rule: How the splits were made.
        unreadable: Image id -> reason.
        exact: Groups of rows with the same bytes.
        near: (row, row, likeness in [0, 1]) of pairs that are nearly the same picture, exact ones left out.
        sizes: (width, height) in pixels -> images.
        bytes: Size of all files together.
        fingerprint: `timm_gam.embed.cache.data_fingerprint` of the readable images.
    """

    images: ImageSet
    rows: NDArray[np.int64]
    splits: tuple[str, ...]
    split_rule: str
    unreadable: dict[str, str]
    exact: list[list[int]]
    near: list[tuple[int, int, float]]
    sizes: dict[tuple[int, int], int]
    bytes: int
    fingerprint: str

    @cached_property
    def split_of(self) -> dict[int, str]:
        """Row -> its split."""
        return dict(zip(self.rows.tolist(), self.splits, strict=True))

    @property
    def warnings(self) -> list[str]:
        """What makes numbers over these images say less than they seem to, one line each."""
        return [*self.images.notes, *class_warnings(self.images.labels[self.rows], self.images.class_names)]

    def crossing(self, rows: list[int] | tuple[int, int]) -> bool:
        """Whether the same picture stands in more than one split."""
        return len({self.split_of[row] for row in rows}) > 1

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON, ids for rows."""
        ids = self.images.ids
        return {
            "images": len(self.rows),
            "classes": {
                self.images.class_names[k]: n
                for k, n in sorted(Counter(self.images.labels[self.rows].tolist()).items())
            },
            "splits": dict(Counter(self.splits)),
            "split_rule": self.split_rule,
            "bytes": self.bytes,
            "sizes": {f"{w}x{h}": n for (w, h), n in self.sizes.items()},
            "fingerprint": self.fingerprint,
            "unreadable": self.unreadable,
            "left_out": dict(self.images.left_out),
            "warnings": self.warnings,
            "exact_duplicates": [
                {"ids": [ids[row] for row in group], "across_splits": self.crossing(group)} for group in self.exact
            ],
            "near_duplicates": [
                {
                    "ids": [ids[first], ids[second]],
                    "likeness": round(alike, 4),
                    "across_splits": self.crossing((first, second)),
                }
                for first, second, alike in self.near
            ],
        }


def audit_images(
    images: ImageSet,
    near: float,
    on_progress: Callable[[int], None] = lambda images: None,
    limits: DecodeLimits = DecodeLimits(),
) -> Audit:
    """Decode every image once and compare all with all.

    Args:
        images: A labelled image set.
        near: How much alike near duplicates are at least; see `timm_gam.images.likeness`.
        on_progress: Called with the number of images just read.
        limits: What one image may take to decode.

    Raises:
        DataError: no image can be read.
    """
    rows: list[int] = []
    digests: list[bytes] = []
    copies: dict[bytes, list[int]] = defaultdict(list)
    signatures: list[NDArray[np.int8]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable: dict[str, str] = {}
    total = 0
    for row, encoded in images.reader.read(range(len(images))):
        try:
            picture, digest = load_image(encoded, images.ids[row], limits=limits)
        except UnreadableImageError as error:
            unreadable[error.image_id] = error.reason
        else:
            rows.append(row)
            digests.append(digest)
            copies[digest].append(row)
            signatures.append(signature(picture))
            sizes[picture.size] += 1
            total += encoded.stat().st_size  # type: ignore[union-attr]  # a folder gives paths
        on_progress(1)
    if not rows:
        name, reason = next(iter(unreadable.items()))
        raise DataError(
            f"none of {len(images)} files of '{images.name}' can be read, the first is '{name}' ({reason}); name a "
            "folder of images"
        )
    kept = np.array(rows, dtype=np.int64)
    if images.splits is not None:
        splits, rule = tuple(images.splits[row] for row in rows), "the folder's own"
    else:
        is_test = published_split([images.ids[row] for row in rows], images.labels[kept])
        splits, rule = tuple("test" if test else "train" for test in is_test.tolist()), IMAGE_RULE
    pairs = alike_pairs(np.array(signatures), near)
    return Audit(
        images=images,
        rows=kept,
        splits=splits,
        split_rule=rule,
        unreadable=unreadable,
        exact=[group for group in copies.values() if len(group) > 1],
        near=[(rows[i], rows[j], alike) for i, j, alike in pairs if digests[i] != digests[j]],
        sizes=dict(sizes.most_common()),
        bytes=total,
        fingerprint=data_fingerprint(images, kept, digests),
    )
