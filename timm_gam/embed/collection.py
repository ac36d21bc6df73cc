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
from timm_gam.embed.embedding import EmbeddedBatch, Embeddings
from timm_gam.embed.embedding_cache import FileStore
from timm_gam.embed.signatures import collect_signatures
from timm_gam.embed.store import MemoryStore, VectorStore, buffered
from timm_gam.images import SIGNATURE_BYTES, Digests, digest_images

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
    todo = np.flatnonzero(_everywhere(lacking, world))
    mine = todo[world.share(len(todo), embedder.settings.batch_size)]
    own: VectorStore = MemoryStore(len(mine)) if store is None else store
    began = time.perf_counter()
    unreadable: dict[str, str] = {}
    signatures = np.zeros((len(rows), SIGNATURE_BYTES), dtype=np.int8)
    made = Digests.none(len(mine))  # of the bytes that were decoded, whatever was there before
    bar = progress(world.size * len(mine)) if len(mine) else nullcontext(lambda done: None)
    with bar as on_progress, buffered(own) as keep:

        def take(batch: EmbeddedBatch) -> None:
            keep(batch)
            places = np.searchsorted(rows[mine], batch.rows)
            made.table[places] = Digests.of(batch.digests).table
            signatures[mine[places]] = batch.signatures
            unreadable.update(batch.unreadable)
            on_progress(world.size * (len(batch.rows) + len(batch.unreadable)))  # shares are of one size, to a batch

        if len(mine):
            embedder.embed(images, rows[mine], take)
    count = int(world.sum(torch.tensor([int(made.known.sum())])))
    for found in world.gather(unreadable):
        unreadable.update(found)
    digests.table[todo] = 0
    digests.table[todo] = _shared(made, np.searchsorted(todo, mine), len(todo), world).table
    kept = digests.take(digests.known)
    if len(kept) == 0:
        raise EmbeddingError(f"none of {len(rows)} images of '{images.name}' could be read")
    read = rows[digests.known]
    vectors = _vectors(own, store, kept, world)
    signatures = collect_signatures(
        images,
        read,
        kept,
        signatures[digests.known],
        folder=store.folder if store is not None else None,
        settings=embedder.settings,
        world=world,
    )
    seconds = time.perf_counter() - began if count else 0
    return Embeddings(read, vectors, kept, unreadable, signatures, seconds), count


def _vectors(own: VectorStore, store: FileStore | None, digests: Digests, world: World) -> NDArray[np.float32]:
    """(N, D) embeddings of all digests, each of which some process has."""
    if store is None:
        whole = own if world.size == 1 else MemoryStore(len(digests))
        _exchange(own, whole, digests, world)
        return whole.read(digests)
    world.barrier()  # what another process of this machine has written is seen from here on
    _exchange(store, store if world.leads_machine else None, digests, world)
    if world.leads_machine:
        store.compact(digests)
    world.barrier()
    if store.missing(digests).any():
        raise OutputError(
            f"process {world.rank} does not find in '{store.folder}' what another process of its machine wrote; "
            "give them one --cache-dir"
        )
    return store.read(digests)


def _exchange(own: VectorStore, into: VectorStore | None, digests: Digests, world: World) -> None:
    """Send each embedding that `into` of any process lacks there, from the first process that has it."""
    has = ~own.missing(digests)
    owner = world.least(torch.from_numpy(np.where(has, world.rank, world.size)))
    lacking = ~has if into is None else into.missing(digests)
    sent = world.sum(torch.from_numpy(lacking.astype(np.int32))).numpy() > 0
    for rank in range(world.size):
        places = np.flatnonzero(sent & (owner.numpy() == rank))
        for start in range(0, len(places), _EXCHANGED):
            block = digests.take(places[start : start + _EXCHANGED])
            vectors = world.broadcast(own.read(block) if rank == world.rank else np.empty((0, 0), np.float32), rank)
            if into is not None:
                into.add(block, vectors)


def _shared(digests: Digests, places: NDArray[np.int64], count: int, world: World) -> Digests:
    """`count` digests, of which each process has those of its own places."""
    table = np.zeros((count, digests.table.shape[1]), dtype=np.uint8)
    table[places] = digests.table
    return Digests(world.sum(torch.from_numpy(table)).numpy())


def _everywhere(flags: NDArray[np.bool_], world: World) -> NDArray[np.bool_]:
    """(N,) whether each is true in every process."""
    return world.least(torch.from_numpy(flags.astype(np.int32))).numpy() > 0
