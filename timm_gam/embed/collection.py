"""The embeddings of a list of images, in every process of a run: kept ones are reused, the others made by all.

What is missing is shared out in consecutive runs of whole batches, so every image meets the same batch as in a single
process and has the same embedding to the last bit. Then every process gets all of them: in memory, or with a cache
folder in a file that is mapped, of which each machine has one and no process ever holds the whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import EmbeddingError, OutputError, World
from timm_gam.data import ImageSet
from timm_gam.embed.cache import EmbeddingCache
from timm_gam.embed.embedder import Embedder
from timm_gam.embed.embedding import EmbeddedBatch, Embeddings
from timm_gam.embed.vector_file import VectorFile
from timm_gam.images import Digests, digest_images

__all__ = ["collect_embeddings"]

_EXCHANGED = 2**26  # bytes of embeddings at a time
_NOBODY = np.iinfo(np.int32).max


def collect_embeddings(
    images: ImageSet,
    rows: NDArray[np.int64],
    embedder: Embedder,
    *,
    cache: EmbeddingCache | None,
    world: World,
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> tuple[Embeddings, int]:
    """Reuse or make the embeddings of `rows`. Every process calls this alike.

    Args:
        images: The image set.
        rows: (N,) int64 ascending rows of it.
        embedder: Makes embeddings.
        cache: Keeps embeddings, or None.
        world: The processes that share the work.
        progress: Makes a progress bar of so many images, advanced by the images of all processes.

    Returns:
        The embeddings, the same in every process, and how many of them were made now.

    Raises:
        TimmGamError: an image cannot be read, an embedding cannot be used, or a file cannot be written.
    """
    digests = Digests.none(len(rows)) if cache is None else _digest(images, rows, world)
    collection = _Collection(rows, digests)
    for file in [] if cache is None else cache.find(digests):
        collection.reuse(file)
    tally = world.tally("embedded")
    todo = rows[collection.owners(world) == _NOBODY]
    began = time.perf_counter()
    unreadable: dict[str, str] = {}
    with progress(len(todo)) if len(todo) else nullcontext(lambda done: None) as on_progress:
        mine = todo[world.share(len(todo), embedder.settings.batch_size)]

        def follow(batch: EmbeddedBatch) -> None:
            unreadable.update(batch.unreadable)
            on_progress(tally(len(batch.rows) + len(batch.unreadable)))

        embed = partial(embedder.embed, images, mine)
        made = _embed(collection, mine, embed, cache, follow)
        made = int(world.sum(torch.tensor([made])))
    for text in world.gather(json.dumps(unreadable)):
        unreadable.update(json.loads(text))
    owners = collection.owners(world)
    places = np.flatnonzero(owners != _NOBODY)
    if len(places) == 0:
        raise EmbeddingError(f"none of {len(rows)} images of '{images.name}' could be read")
    digests = _exchanged(collection.digests, owners == world.rank, world)
    seconds = time.perf_counter() - began if made else 0.0
    kept = digests.take(places)
    vectors = _vectors(collection, owners, places, kept, cache, world)
    return Embeddings(vectors, rows[places], kept, unreadable, seconds), made


class _Collection:
    """Where this process has the embeddings of the rows: in which array, and at which position of it."""

    def __init__(self, rows: NDArray[np.int64], digests: Digests) -> None:
        self.rows, self.digests = rows, digests
        self.arrays: list[NDArray[np.float32]] = []
        self.array = np.full(len(rows), -1, dtype=np.int32)
        self.position = np.zeros(len(rows), dtype=np.int64)

    def add(self, vectors: NDArray[np.float32], places: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        self.array[places], self.position[places] = len(self.arrays), positions
        self.arrays.append(vectors)

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of some of the rows."""
        return np.searchsorted(self.rows, rows)

    @property
    def dim(self) -> int:
        """D, or 0 where this process has no embeddings."""
        return int(self.arrays[0].shape[1]) if self.arrays else 0

    def add_made(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Take (K, D) embeddings of K rows."""
        if len(rows):
            self.add(vectors, self.places(rows), np.arange(len(rows)))

    def reuse(self, file: VectorFile) -> None:
        """Take what a file of the cache holds and nothing before it did."""
        at = {digest: position for position, digest in enumerate(file.digests)}
        places = [place for place in np.flatnonzero(self.array < 0).tolist() if self.digests[place] in at]
        found = self.digests.take(np.array(places, dtype=np.int64))
        # Images with the same bytes have one embedding each in a file of this very list.
        same = found == file.digests
        positions = range(len(found)) if same else [at[digest] for digest in found]
        self.add(file.vectors, np.array(places, dtype=np.int64), np.array(positions, dtype=np.int64))

    def owners(self, world: World) -> NDArray[np.int32]:
        """(N,) the first process that has each embedding, _NOBODY where none has it."""
        mine = np.where(self.array >= 0, world.rank, _NOBODY).astype(np.int32)
        owners: NDArray[np.int32] = world.least(torch.from_numpy(mine)).numpy()
        return owners

    def take(self, places: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
        """(K, dim) embeddings of some places."""
        out = np.empty((len(places), dim), dtype=np.float32)
        for number in np.unique(self.array[places]).tolist():
            here = self.array[places] == number
            out[here] = self.arrays[number][self.position[places[here]]]
        return out

    def whole(self, places: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The array that holds just these places in their order, where one does."""
        number = self.array[places[0]]
        vectors = self.arrays[number] if number >= 0 else None
        if vectors is None or len(vectors) != len(places) or (self.array[places] != number).any():
            return None
        return vectors if np.array_equal(self.position[places], np.arange(len(places))) else None


def _embed(
    collection: _Collection,
    rows: NDArray[np.int64],
    embed: Callable[[Callable[[EmbeddedBatch], None]], None],
    cache: EmbeddingCache | None,
    follow: Callable[[EmbeddedBatch], None],
) -> int:
    """Make this process's share of the embeddings; returns how many there are now."""
    if len(rows) == 0:
        return 0
    made = 0

    def take(batch: EmbeddedBatch) -> None:
        nonlocal made
        made += len(batch.rows)
        for place, digest in zip(collection.places(batch.rows).tolist(), batch.digests, strict=True):
            collection.digests[place] = digest  # of the bytes that were decoded, whatever was there before
        keep(batch)
        follow(batch)

    if cache is None:
        memory = _Memory(len(rows))
        keep = memory.keep
        embed(take)
        collection.add_made(memory.vectors[:made], memory.rows[:made])
    else:
        with cache.parts() as parts:
            keep = parts.keep
            embed(take)
        for file, part_rows in parts.written:
            collection.add_made(file.vectors, part_rows)
    return made


class _Memory:
    """Embeddings as they are made, without a cache folder."""

    def __init__(self, count: int) -> None:
        self.rows = np.empty(count, dtype=np.int64)
        self.vectors = np.empty((0, 0), dtype=np.float32)
        self._filled = 0

    def keep(self, batch: EmbeddedBatch) -> None:
        if len(batch.rows) == 0:
            return
        if self._filled == 0:
            self.vectors = np.empty((len(self.rows), batch.vectors.shape[1]), dtype=np.float32)
        here = slice(self._filled, self._filled + len(batch.rows))
        self.rows[here], self.vectors[here] = batch.rows, batch.vectors
        self._filled = here.stop


def _vectors(
    collection: _Collection,
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    digests: Digests,
    cache: EmbeddingCache | None,
    world: World,
) -> NDArray[np.float32]:
    """(K, D) embeddings of the places, from all processes, in memory or mapped from the cache's entry."""
    whole = collection.whole(places) if cache is None or cache.entry(digests) is not None else None
    if int(world.sum(torch.tensor([whole is None]).int())) == 0 and whole is not None:
        vectors = whole
    else:
        dim = -int(world.least(torch.tensor([-collection.dim])))
        blocks = _exchange(collection, owners, places, dim, world)
        if cache is None:
            vectors = np.empty((len(places), dim), dtype=np.float32)
            start = 0
            for block in blocks:
                vectors[start : start + len(block)] = block
                start += len(block)
            return vectors
        if world.leads_machine and whole is None:
            cache.write_entry(digests, dim, blocks)
        for _ in blocks:  # the others take part in the exchange
            pass
        world.barrier()
        entry = cache.entry(digests)
        if entry is None:
            raise OutputError(
                f"process {world.rank} does not find in '{cache.folder}' what another process of its machine wrote; "
                "give them one --cache-dir"
            )
        vectors = entry.vectors
    if cache is not None and world.leads_machine:
        cache.remove_parts(digests)
    return vectors


def _exchange(
    collection: _Collection, owners: NDArray[np.int32], places: NDArray[np.int64], dim: int, world: World
) -> Iterator[NDArray[np.float32]]:
    """Consecutive blocks of the embeddings, from the processes that have them."""
    step = max(1, _EXCHANGED // (4 * dim))
    for start in range(0, len(places), step):
        some = places[start : start + step]
        block = np.zeros((len(some), dim), dtype=np.float32)
        mine = owners[some] == world.rank
        block[mine] = collection.take(some[mine], dim)
        world.sum(torch.from_numpy(block.view(np.int32)))  # bits, to which all other processes add 0
        yield block


def _digest(images: ImageSet, rows: NDArray[np.int64], world: World) -> Digests:
    """Content digests of the rows, read by all processes; empty for a file that has vanished."""
    mine = world.share(len(rows), 1)
    digests = Digests.none(len(rows))
    digests.table[mine] = digest_images(images, rows[mine]).table
    is_mine = np.zeros(len(rows), dtype=np.bool_)
    is_mine[mine] = True
    return _exchanged(digests, is_mine, world)


def _exchanged(digests: Digests, is_mine: NDArray[np.bool_], world: World) -> Digests:
    """Each digest from the process that has it."""
    if world.size == 1:
        return digests
    table = np.where(is_mine[:, None], digests.table, np.uint8(0))
    world.sum(torch.from_numpy(table))
    return Digests(table)
