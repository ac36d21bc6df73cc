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
from timm_gam.search.photos.folder import PhotoFacts, PhotoFile, find_photos, photo_set, read_facts
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
    files = {file.path: file for file in fresh}
    lacking = sorted(catalogue.with_digests(known.take(store.missing(known))) - files.keys())
    waiting = iter([*files, *lacking])
    new = moved = changed = embedded = 0
    with progress(collection.model, "img", len(fresh) + len(lacking)) as on_progress:
        while paths := list(islice(waiting, CHUNK)):
            rows = _facts(index, files, paths)
            seen = catalogue.entered(fact.digest for _, fact in rows)
            there = catalogue.digests_of(file.path for file, _ in rows)
            for file, fact in rows:
                if file.path in files and fact.digest:
                    changed += there.get(file.path, fact.digest) != fact.digest
                    moved += file.path not in there and fact.digest in seen
                    new += file.path not in there and fact.digest not in seen
            problems, count = _embed(index, embedder, store, rows, on_progress)
            embedded += count
            catalogue.keep([(file, fact, problems.get(file.path)) for file, fact in rows])
    deleted = catalogue.remove_missing()
    photos = catalogue.digests()
    if len(photos) and (embedded or deleted or changed):
        store.compact(photos, keep_others=False)
    if len(photos):
        index.store(collection).update(progress)
    index.use(collection)
    return Update(new, moved, changed, deleted, embedded, catalogue.count(), catalogue.unreadable())


def _facts(index: PhotoIndex, files: dict[str, PhotoFile], paths: list[str]) -> list[tuple[PhotoFile, PhotoFacts]]:
    """In order of path: read from the file where it is fresh, else from the catalogue."""
    fresh = sorted(path for path in paths if path in files)
    with ThreadPoolExecutor(8) as pool:
        read = dict(zip(fresh, pool.map(lambda path: read_facts(index.root / path), fresh), strict=True))
    return [(files[path], read[path]) if path in files else index.catalogue.file(path) for path in sorted(paths)]


def _embed(
    index: PhotoIndex,
    embedder: Embedder,
    store: FileStore,
    rows: list[tuple[PhotoFile, PhotoFacts]],
    on_progress: Callable[[int], None],
) -> tuple[dict[str, str], int]:
    """Embed those that the store lacks, each content once; path -> problem, and how many were embedded."""
    digests = Digests.of(fact.digest for _, fact in rows)
    first = np.unique(digests.values, return_index=True)[1]
    todo = np.sort(first[(digests.known & store.missing(digests))[first]]).tolist()
    on_progress(len(rows) - len(todo))
    problems = {file.path: _UNREADABLE for file, fact in rows if not fact.digest}
    made = 0

    def take(batch: EmbeddedBatch) -> None:
        nonlocal made
        keep(batch)
        made += len(batch.rows)
        problems.update(batch.unreadable)
        on_progress(len(batch.rows) + len(batch.unreadable))

    if todo:
        images = photo_set(index.root, [rows[place][0].path for place in todo])
        with buffered(store) as keep:
            embedder.embed(images, np.arange(len(images)), take)
    broken = {fact.digest: problems[file.path] for file, fact in rows if file.path in problems}
    for file, fact in rows:
        if fact.digest in broken:
            problems[file.path] = broken[fact.digest]
    return problems, made
