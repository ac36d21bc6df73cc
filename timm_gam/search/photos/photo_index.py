"""An index of a folder of photographs: made, brought up to date, and asked.

    INDEX/index.json       the folder, and each collection: a model and its `Embedder.key`
    INDEX/photos.sqlite    the catalogue: one row for each file
    INDEX/vectors/         the embeddings of all collections, by key and by the SHA-256 of the photograph

Embeddings are kept before the catalogue knows of a photograph, so what ends an update at any moment costs at most the
last minute of it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, OutputError, read_json, write_json
from timm_gam.embed import FileStore, recorded_views
from timm_gam.images import Digests
from timm_gam.search.photos.catalogue import Catalogue, PhotoFilter
from timm_gam.search.photos.folder import Photo
from timm_gam.search.stores.exact import ExactStore
from timm_gam.search.stores.milvus import MilvusStore
from timm_gam.search.stores.store import StoreChoice

SearchStore = ExactStore | MilvusStore
"""Finds the nearest photographs of a collection: `plan`, `update`, `nearest`."""

INDEX_NAME = ".timm-gam-index"
_FORMAT = 1


@dataclass(frozen=True)
class Collection:
    """Photographs as one model sees them.

    Attributes:
        model: As `load_model` takes it.
        checkpoint: Path of a weights file, or None.
        amp: Whether embeddings are made in mixed precision.
        key: `Embedder.key` of the embeddings.
        head: Path of a head, "none" where that of the model is left out, or None.
    """

    model: str
    checkpoint: str | None = None
    amp: bool = False
    key: dict[str, Any] = field(default_factory=dict)
    head: str | None = None

    @property
    def views(self) -> dict[str, Any]:
        """How its embeddings are pooled and averaged, as arguments of `EmbedSettings`; empty: as the model does."""
        return recorded_views(self.key.get("views", {}))


@dataclass(frozen=True)
class _Content:
    """Of index.json; the folder of photographs is ".." where the index lies in it."""

    format: int
    photos: str
    collections: tuple[Collection, ...]
    store: StoreChoice = field(default_factory=StoreChoice)
    name: str = ""


@dataclass(frozen=True)
class Match:
    """A photograph that was found.

    Attributes:
        rank: From 1.
        score: Cosine, in [-1, 1].
        photo: The first file with these bytes that the filter lets through.
        copies: Paths of others.
    """

    rank: int
    score: float
    photo: Photo
    copies: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = {name: value for name, value in asdict(self.photo).items() if name not in ("digest", "mtime_ns")}
        return {"rank": self.rank, "score": round(self.score, 6), **facts, "copies": list(self.copies)}


class PhotoIndex:
    """An index in a folder of its own.

    Attributes:
        folder: Of the index.
        root: The folder of photographs.
        collections: The one that was updated last is first.
        choice: Where its vectors are searched; another one is kept by the next update that succeeds.
        name: Letters and digits that no other index has, as several may use one server.
        catalogue: Of its files.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        collections: Sequence[Collection] = (),
        choice: StoreChoice | None = None,
        name: str = "",
    ) -> None:
        self.folder, self.root, self.collections = folder, root, tuple(collections)
        self.name = name or secrets.token_hex(6)
        self.choice = choice or StoreChoice()
        self.catalogue = Catalogue(folder / "photos.sqlite")
        self._stores: dict[str, SearchStore] = {}

    @classmethod
    def create(cls, photos: Path, folder: Path | None = None) -> PhotoIndex:
        """Open the index of a folder of photographs, or begin one.

        Args:
            photos: The folder.
            folder: Of the index; default a hidden folder in `photos`.

        Raises:
            DataError: no such folder, or the index is of another one.
            OutputError: the index cannot be written.
        """
        if not photos.is_dir():
            raise DataError(f"no folder '{photos}'; name a folder of photographs")
        folder = folder or photos / INDEX_NAME
        if (folder / "index.json").exists():
            index = cls.open(folder)
            if index.root.resolve() != photos.resolve():
                raise DataError(
                    f"'{folder}' is the index of '{index.root}', not of '{photos}'; name another --index, or where it "
                    f"has moved, write its new place into '{folder / 'index.json'}'"
                )
            return index
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the index '{folder}': {error.strerror}; name a folder you can write to with --index"
            ) from error
        index = cls(folder, photos)
        index._write()
        return index

    @classmethod
    def open(cls, path: Path) -> PhotoIndex:
        """Open an index by its folder, or by the folder of photographs that holds it.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        folder = path / INDEX_NAME if (path / INDEX_NAME / "index.json").exists() else path
        if not (folder / "index.json").exists():
            raise DataError(f"'{path}' holds no index; make one with: timm-gam search index {path}")
        content = read_json(folder / "index.json", _Content, DataError, "remove it and index again")
        if content.format != _FORMAT:
            raise DataError(f"'{folder}' is of format {content.format}, and {_FORMAT} is read; index again")
        root = Path(content.photos)
        if not root.is_absolute():
            root = folder.parent if root == Path("..") else folder / root
        return cls(folder, root, content.collections, content.store, content.name)

    def collection(self, model: str | None = None) -> Collection:
        """The collection that was updated last, or that of a model.

        Raises:
            DataError: there is none.
        """
        chosen = [entry for entry in self.collections if model in (None, entry.model)]
        if not self.collections:
            raise DataError(f"the index '{self.folder}' is of no photographs yet; run timm-gam search index")
        if not chosen:
            have = ", ".join(entry.model for entry in self.collections)
            raise DataError(f"no collection of '{model}' in '{self.folder}'; it has: {have}; index with --model first")
        return chosen[0]

    def use(self, collection: Collection) -> None:
        """Make a collection the first, in the place of an older one of its model, and keep where it is searched."""
        self.collections = (collection, *(entry for entry in self.collections if entry.model != collection.model))
        self._write()

    def remove_if_empty(self) -> None:
        """Take away an index that nothing came into, and its folder where that holds nothing else."""
        if self.collections or self.catalogue.count():
            return
        shutil.rmtree(self.folder / "vectors", ignore_errors=True)
        for file in ("index.json", *(f"photos.sqlite{ending}" for ending in ("", "-wal", "-shm"))):
            (self.folder / file).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def embeddings(self, collection: Collection, *, verify: bool = False) -> FileStore:
        """The embeddings that were made for a collection.

        Args:
            collection: Of this index.
            verify: Read every part once and leave out what is damaged.
        """
        return FileStore(self.folder / "vectors", collection.key, verify=verify)

    def store(self, collection: Collection) -> SearchStore:
        """Where the vectors of a collection are searched: exactly, or in Milvus."""
        name = json.dumps([asdict(collection), asdict(self.choice)], sort_keys=True)
        if name not in self._stores:
            embeddings, key = self.embeddings(collection), json.dumps(collection.key, sort_keys=True)
            named = f"{self.name}_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
            self._stores[name] = (
                ExactStore(self.catalogue, embeddings)
                if self.choice.address == "exact"
                else MilvusStore(self.choice, self.folder, self.catalogue, embeddings, named)
            )
        return self._stores[name]

    def note(self, collection: Collection) -> str:
        """How many photographs cannot be found, as they have no embedding of a collection, and what to do; or ""."""
        digests = self.catalogue.digests()
        lacking = int(self.embeddings(collection).missing(digests).sum())
        if len(digests) and not lacking:
            return ""
        which = f"{lacking:,} of {len(digests):,} photographs have no embedding by {collection.model}, so are not found"
        return (
            f"note: {which if lacking else 'the catalogue holds no photograph'}; bring the index up to date: "
            f"timm-gam search index {shlex.quote(str(self.root))} --model {collection.model}"
        )

    def search(
        self, collection: Collection, query: NDArray[np.float32], k: int = 10, chosen: PhotoFilter | None = None
    ) -> list[Match]:
        """The k photographs most like a query, files with the same bytes as one.

        Args:
            collection: Of this index.
            query: (D,) float32 embedding, or what several were made into.
            k: How many at most.
            chosen: Which may be found.
        """
        return self.matches(self.store(collection).nearest(query[None], k, chosen)[0], k, chosen)

    def matches(self, found: Iterable[tuple[bytes, float]], k: int, chosen: PhotoFilter | None = None) -> list[Match]:
        """The first k of ranked (digest, score) that are of photographs which the filter lets through."""
        matches: list[Match] = []
        for digest, score in found:
            if photos := self.catalogue.photos(digest, chosen):
                copies = tuple(photo.path for photo in photos[1:])
                matches.append(Match(len(matches) + 1, score, photos[0], copies))
            if len(matches) == k:
                break
        return matches

    def vector(self, collection: Collection, digest: bytes) -> NDArray[np.float32] | None:
        """(D,) the embedding of an indexed photograph, None of any other."""
        with suppress(LookupError):
            return np.array(self.embeddings(collection).read(Digests.of([digest]))[0], dtype=np.float32)
        return None

    def _write(self) -> None:
        inside = self.folder.resolve() == (self.root / INDEX_NAME).resolve()
        photos = ".." if inside else str(self.root.resolve())  # so that a folder moves with its index
        content = _Content(_FORMAT, photos, self.collections, self.choice, self.name)
        write_json(self.folder / "index.json", asdict(content))
