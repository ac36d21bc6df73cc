"""The embeddings of a list of images, in every process of a run: kept ones are reused, the others made by all.

What no process has is shared out in consecutive runs of whole batches, so every image meets the same batch as in a
single process and has the same embedding to the last bit. Then what one machine has and another lacks is sent there.
With a folder every machine ends with one file of the embeddings in their order, which its processes map.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import EmbeddingError, OutputError, World
from timm_gam.data import ImageSet
from timm_gam.embed.embedder import Embedder
from timm_gam.embed.embedding import BatchTable, EmbeddedBatch, Embeddings
from timm_gam.embed.embedding_cache import FileStore, buffered
from timm_gam.images import Digests, digest_images

_EXCHANGED = 2**14  # embeddings at a time


def collect_embeddings(
    images: ImageSet,
    rows: NDArray[np.int64],
    embedder: Embedder,
    *,
    store: FileStore | None,
    world: World,
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> tuple[Embeddings, int]:
    """Reuse or make the embeddings of `rows`. Every process calls this alike.

    Args:
        images: The image set.
        rows: (N,) int64 ascending rows of it.
        embedder: Makes embeddings.
        store: Keeps embeddings for another time, or None.
        world: The processes that share the work.
        progress: Makes a progress bar of so many images, advanced by the images of all processes.

    Returns:
        The embeddings, the same in every process, and how many of them were made now.

    Raises:
        TimmGamError: an image cannot be read, an embedding cannot be used, or a file cannot be written.
    """
    digests = Digests.none(len(rows)) if store is None else digest_images(images, rows, world)
    lacking = np.ones(len(rows), dtype=np.bool_) if store is None else store.missing(digests)
    todo = np.flatnonzero(world.least(torch.from_numpy(lacking.astype(np.int32))).numpy())  # what no process has
    mine = todo[world.share(len(todo), embedder.settings.batch_size)]
    began = time.perf_counter()
    bar = progress(world.size * len(mine)) if len(mine) else nullcontext(lambda done: None)
    with bar as on_progress, nullcontext(lambda batch: None) if store is None else buffered(store) as keep:
        # Shares are of one size, to a batch.
        made = BatchTable(rows[mine], lambda done: on_progress(world.size * done), keep_vectors=store is None)

        def take(batch: EmbeddedBatch) -> None:
            keep(batch)
            made.take(batch)

        if len(mine):
            embedder.embed(images, rows[mine], take)
    count = int(world.sum(torch.tensor([int(made.digests.known.sum())])))
    unreadable = {name: reason for found in world.gather(made.unreadable) for name, reason in found.items()}
    digests.table[todo] = 0
    digests.table[mine] = made.digests.table  # of the bytes that were decoded, whatever was there before
    digests.table[todo] = _summed(digests.table[todo], world)
    kept = digests.take(digests.known)
    if len(kept) == 0:
        raise EmbeddingError(f"none of {len(rows)} images of '{images.name}' could be read")
    if store is None:
        vectors, signatures = _together(made, mine, digests, world)
    else:
        _share_parts(store, kept, world)
        vectors, signatures = store.read(kept), store.signatures(kept)
    seconds = time.perf_counter() - began if count else 0
    return Embeddings(rows[digests.known], vectors, kept, unreadable, signatures, seconds), count


def _together(
    made: BatchTable, mine: NDArray[np.int64], digests: Digests, world: World
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """(N, D) vectors and (N, 256) signatures of what all processes made; of the same bytes, those of the first."""
    vectors, signatures = made.vectors, made.signatures
    if world.size > 1:
        vectors = np.zeros((len(digests), max(world.gather(made.vectors.shape[1]))), dtype=np.float32)
        signatures = np.zeros((len(digests), signatures.shape[1]), dtype=np.int8)
        vectors[mine], signatures[mine] = made.vectors if made.vectors.size else 0, made.signatures
        vectors, signatures = (_summed(t.view(np.uint8), world).view(t.dtype) for t in (vectors, signatures))
    _, first, group = np.unique(digests.values, return_index=True, return_inverse=True)
    source = first[group][digests.known]
    if np.array_equal(source, np.arange(len(vectors))):
        return vectors, signatures
    return vectors[source], signatures[source]


def _share_parts(store: FileStore, digests: Digests, world: World) -> None:
    """Write to the store of each machine what another one has, and make one part of all of them.

    Raises:
        OutputError: processes of one machine have different stores.
    """
    world.barrier()  # what another process of this machine has written is seen from here on
    has = ~store.missing(digests)
    owner = world.least(torch.from_numpy(np.where(has, world.rank, world.size))).numpy()
    lacking = ~has & world.leads_machine
    sent = world.sum(torch.from_numpy(lacking.astype(np.int32))).numpy() > 0
    for rank in range(world.size):
        places = np.flatnonzero(sent & (owner == rank))
        for start in range(0, len(places), _EXCHANGED):
            block = digests.take(places[start : start + _EXCHANGED])
            found = world.broadcast((store.read(block), store.signatures(block)) if rank == world.rank else None, rank)
            if world.leads_machine and found is not None:
                store.add(block, *found)
    if world.leads_machine:
        store.compact(digests)
    world.barrier()
    if store.missing(digests).any():
        raise OutputError(
            f"process {world.rank} does not find in '{store.folder}' what another process of its machine wrote; "
            "give them one --cache-dir"
        )


def _summed(table: NDArray[np.uint8], world: World) -> NDArray[np.uint8]:
    """The bytes of all processes, each of which has its own and zeros elsewhere."""
    return world.sum(torch.from_numpy(table)).numpy()
