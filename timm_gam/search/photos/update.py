"""Bring an index up to date with its folder: only what is new is read, only what is unknown is embedded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from timm_gam.core import DataError, ProgressBar, counted, no_progress
from timm_gam.data import ENDINGS
from timm_gam.embed import EmbeddedBatch, Embedder, FileStore, buffered
from timm_gam.images import Digests
from timm_gam.search.photos.folder import Photo, find_photos, photo_set, read_facts
from timm_gam.search.photos.photo_index import Collection, PhotoIndex

_UNREADABLE = "cannot be read: gone, not permitted, or a name that is not UTF-8"
CHUNK = 4096
"""Photographs that are read, embedded and entered in the catalogue together; what was read is still in memory then."""


@dataclass(frozen=True)
class Update:
    """What an update found: numbers of files, and of photographs that were embedded now.

    Attributes:
        new: With bytes that were nowhere before.
        moved: New paths of bytes that were there, copies among them.
        changed: Other bytes under a path that was there.
        deleted: Paths that are there no more, those that have moved among them.
        embedded: Photographs that the model was run on.
        photos: In the index now.
        unreadable: Path -> why, of all files in the folder that cannot be decoded.
    """

    new: int
    moved: int
    changed: int
    deleted: int
    embedded: int
    photos: int
    unreadable: dict[str, str]


def update_index(
    index: PhotoIndex,
    collection: Collection,
    embedder: Embedder,
    progress: ProgressBar = no_progress,
    log: Callable[[str], None] = lambda line: None,
) -> Update:
    """Find what is new, changed, moved or deleted, embed what this collection lacks, and make it the index's first.

    Photographs are entered chunk by chunk, each after its embeddings are kept; ended at any moment, the next update
    goes on.

    Args:
        index: To be updated.
        collection: With `embedder.key`.
        embedder: With `on_unreadable="skip"`.
        progress: Makes progress bars.
        log: Told what the store will take, before anything is embedded.

    Raises:
        DataError: there is no photograph in the folder, or it cannot be read; the index stays as it is.
        MachineError: the store would take more memory than there is.
        TimmGamError: a file cannot be written, or the network gives what is no embedding.
    """
    catalogue, store = index.catalogue, index.embeddings(collection, verify=True)
    with progress("looking", "file", None) as on_progress:
        found, fresh = catalogue.look(counted(find_photos(index.root), on_progress))
    if found == 0:
        raise DataError(
            f"no photographs ({', '.join(e[1:] for e in ENDINGS)}) in '{index.root}'; name another folder"
            + ("; the index is left as it is" if catalogue.count() else "")
        )
    if plan := index.store(collection).plan(found, int(getattr(embedder.loaded.model, "num_features", 0))):
        log(plan)
    known = catalogue.digests()
    unread = {photo.path: photo for photo in fresh}
    lacking = sorted(catalogue.with_digests(known.take(store.missing(known))) - unread.keys())
    waiting = iter([*unread, *lacking])
    new = moved = changed = embedded = 0
    with progress(collection.model, "img", len(fresh) + len(lacking)) as on_progress:
        while paths := list(islice(waiting, CHUNK)):
            some = _read(index, unread, paths)
            seen = catalogue.entered(photo.digest for photo in some)
            there = catalogue.digests_of(photo.path for photo in some)
            for photo in some:
                if photo.path in unread and photo.digest:
                    changed += there.get(photo.path, photo.digest) != photo.digest
                    moved += photo.path not in there and photo.digest in seen
                    new += photo.path not in there and photo.digest not in seen
            problems, count = _embed(index, embedder, store, some, on_progress)
            embedded += count
            catalogue.keep((photo, problems.get(photo.path)) for photo in some)
    deleted = catalogue.remove_missing()
    photos = catalogue.digests()
    if len(photos) and (embedded or deleted or changed):
        store.compact(photos, keep_others=False)
    if len(photos):
        index.store(collection).update(progress)
    index.use(collection)
    return Update(new, moved, changed, deleted, embedded, catalogue.count(), catalogue.unreadable())


def _read(index: PhotoIndex, unread: dict[str, Photo], paths: list[str]) -> list[Photo]:
    """In order of path: read from the file where it was not read yet, else from the catalogue."""

    def one(path: str) -> Photo:
        return read_facts(index.root, unread[path]) if path in unread else index.catalogue.file(path)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, sorted(paths)))


def _embed(
    index: PhotoIndex,
    embedder: Embedder,
    store: FileStore,
    photos: list[Photo],
    on_progress: Callable[[int], None],
) -> tuple[dict[str, str], int]:
    """Embed those that the store lacks, each content once; path -> problem, and how many were embedded."""
    digests = Digests.of(photo.digest for photo in photos)
    first = np.unique(digests.values, return_index=True)[1]
    todo = np.sort(first[(digests.known & store.missing(digests))[first]]).tolist()
    on_progress(len(photos) - len(todo))
    problems = {photo.path: _UNREADABLE for photo in photos if not photo.digest}
    made = 0

    def take(batch: EmbeddedBatch) -> None:
        nonlocal made
        keep(batch)
        made += len(batch.rows)
        problems.update(batch.unreadable)
        on_progress(len(batch.rows) + len(batch.unreadable))

    if todo:
        images = photo_set(index.root, [photos[place].path for place in todo])
        with buffered(store) as keep:
            embedder.embed(images, np.arange(len(images)), take)
    broken = {photo.digest: problems[photo.path] for photo in photos if photo.path in problems}
    return {photo.path: broken[photo.digest] for photo in photos if photo.digest in broken}, made
