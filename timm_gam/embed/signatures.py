"""The signatures of embedded images, by which near-duplicates are found: made while decoding, kept beside embeddings.

They belong to no model: a folder of embeddings has one store of them, in its folder `signatures`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import World
from timm_gam.data import ImageSet
from timm_gam.embed.embedding import loader_workers
from timm_gam.embed.embedding_cache import FileStore
from timm_gam.embed.settings import EmbedSettings
from timm_gam.images import SIGNATURE_BYTES, Digests, load_batches, no_pixels

_KEY = {"signature": "gradients of 16 x 16 grey pixels, int8"}
_BATCH = 256


def collect_signatures(
    images: ImageSet,
    rows: NDArray[np.int64],
    digests: Digests,
    made: NDArray[np.int8],
    *,
    folder: Path | None,
    settings: EmbedSettings,
    world: World,
) -> NDArray[np.int8]:
    """The signatures of images that were embedded now or before; every process calls this alike.

    Args:
        images: The image set.
        rows: (N,) ascending rows of it.
        digests: N digests of their bytes.
        made: (N, 256) int8, those that this process has just made; a row of zeros, which no signature is, elsewhere.
        folder: Keeps embeddings, or None.
        settings: How images that have an embedding and no signature are loaded.
        world: The processes that share the work.

    Returns:
        (N, 256) int8, the same in every process.
    """
    store = None if folder is None else FileStore(folder / "signatures", _KEY)
    table = made.copy()
    if store is not None:
        kept = np.flatnonzero(~made.any(axis=1) & ~store.missing(digests))
        if len(kept):
            words = np.asarray(store.read(digests.take(kept)))
            table[kept] = np.ascontiguousarray(words.astype(np.uint16)).view(np.int8)
    owner = world.least(torch.from_numpy(np.where(table.any(axis=1), world.rank, world.size))).numpy()
    table[owner != world.rank] = 0
    lacking = np.flatnonzero(owner == world.size)
    mine = lacking[world.share(len(lacking), 1)]
    if len(mine):
        table[mine] = _decoded(images, rows[mine], settings)
    if store is not None:
        own = np.flatnonzero(table.any(axis=1))  # two bytes as one whole number, which float32 holds exactly
        store.add(digests.take(own), table[own].view(np.uint16).astype(np.float32))
    return world.sum(torch.from_numpy(table.view(np.uint8))).numpy().view(np.int8)


def _decoded(images: ImageSet, rows: NDArray[np.int64], settings: EmbedSettings) -> NDArray[np.int8]:
    found = np.zeros((len(rows), SIGNATURE_BYTES), dtype=np.int8)
    loaded = load_batches(
        images.reader,
        rows,
        no_pixels,
        batch_size=_BATCH,
        workers=loader_workers(settings),
        limits=settings.limits,
    )
    with loaded as batches:
        for batch in batches:
            for place, signature in zip(batch.places, batch.signatures, strict=True):
                found[place] = signature
    return found
