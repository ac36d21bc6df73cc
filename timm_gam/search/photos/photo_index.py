"""An index of a folder of photographs: made, brought up to date, and asked.

    INDEX/index.json       the folder, and each collection: a model and its `Embedder.key`
    INDEX/photos.sqlite    the catalogue: one row for each file
    INDEX/vectors/         the embeddings of all collections, by key and by the SHA-256 of the photograph

Embeddings are kept before the catalogue knows of a photograph, so what ends an update at any moment costs at most the
last minute of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, OutputError, write_json
from timm_gam.embed import FileStore
from timm_gam.images import Digests, content_digest
from timm_gam.search.photos.catalogue import Catalogue, Photo, PhotoFilter
from timm_gam.search.photos.stores import ExactStore, SearchStore

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
    """

    model: str
    checkpoint: str | None = None
    amp: bool = False
    key: dict[str, Any] = field(default_factory=dict)


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
        facts = {name: value for name, value in asdict(self.photo).items() if name != "digest"}
        return {"rank": self.rank, "score": round(self.score, 6), **facts, "copies": list(self.copies)}


class PhotoIndex:
    """An index in a folder of its own.

    Attributes:
        folder: Of the index.
        root: The folder of photographs.
        collections: The one that was updated last is first.
        catalogue: Of its files.
    """

    def __init__(self, folder: Path, root: Path, collections: Sequence[Collection] = ()) -> None:
        self.folder, self.root, self.collections = folder, root, tuple(collections)
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
                raise DataError(f"'{folder}' is the index of '{index.root}', not of '{photos}'; name another --index")
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
        try:
            content = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise DataError(f"'{folder}' is of format {content['format']}, and {_FORMAT} is read; index again")
            root = Path(content["photos"])
            collections = [Collection(**entry) for entry in content["collections"]]
        except FileNotFoundError as error:
            raise DataError(f"'{path}' holds no index; make one with: timm-gam search index {path}") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"'{folder / 'index.json'}' cannot be read: {error}; remove it and index again") from error
        if not root.is_absolute():
            root = folder.parent if root == Path("..") else folder / root
        return cls(folder, root, collections)

    def collection(self, model: str | None = None) -> Collection:
        """The collection that was updated last, or that of a model.

        Raises:
            DataError: there is none.
        """
        chosen = [entry for entry in self.collections if model in (None, entry.model)]
        if not chosen:
            have = ", ".join(entry.model for entry in self.collections) or "none yet"
            raise DataError(f"no collection of '{model}' in '{self.folder}'; it has: {have}; index with --model first")
        return chosen[0]

    def use(self, collection: Collection) -> None:
        """Make a collection the first, in the place of an older one of its model."""
        others = [entry for entry in self.collections if entry.model != collection.model]
        if self.collections[:1] != (collection,):
            self.collections = (collection, *others)
            self._write()

    def embeddings(self, collection: Collection) -> FileStore:
        """The embeddings that were made for a collection."""
        return FileStore(self.folder / "vectors", collection.key)

    def store(self, collection: Collection) -> SearchStore:
        """Where the vectors of a collection are searched."""
        name = json.dumps(asdict(collection), sort_keys=True)
        if name not in self._stores:
            self._stores[name] = ExactStore(self.folder / "vectors", collection.key, verify=False)
        return self._stores[name]

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
        among = self.catalogue.digests(chosen)
        places, scores = self.store(collection).nearest(query[None], k, among)
        matches: list[Match] = []
        for place, score in zip(places[0].tolist(), scores[0].tolist(), strict=True):
            photos = self.catalogue.photos(among[place], chosen) if place >= 0 else []
            if photos:
                copies = tuple(photo.path for photo in photos[1:])
                matches.append(Match(len(matches) + 1, score, photos[0], copies))
        return matches

    def known_vector(self, collection: Collection, photo: Path) -> NDArray[np.float32] | None:
        """(D,) the embedding of a file with the bytes of an indexed photograph, None of any other."""
        with suppress(LookupError):
            digest = Digests.of([content_digest(photo, str(photo))])
            return np.array(self.store(collection).read(digest)[0], dtype=np.float32)
        return None

    def _write(self) -> None:
        inside = self.folder.resolve() == (self.root / INDEX_NAME).resolve()
        photos = ".." if inside else str(self.root.resolve())  # so that a folder moves with its index
        collections = [asdict(entry) for entry in self.collections]
        write_json(self.folder / "index.json", {"format": _FORMAT, "photos": photos, "collections": collections})
