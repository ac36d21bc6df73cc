"""What the page asks of an index, answered in plain values; nothing here knows of HTTP.

A photograph is named by the SHA-256 of its bytes, in hexadecimal, whether it is in the index or was dropped onto the
page, and nothing is ever given out but bytes with the digest of an indexed photograph: there is no path to ask for.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, ModelError
from timm_gam.images import DIGEST_BYTES, DecodeLimits, data_uri, small_picture
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.folder import Photo
from timm_gam.search.photos.photo_index import Collection, PhotoIndex
from timm_gam.search.photos.query import QueryModel, mean_direction

MOST = 1000
_DROPPED = 64
_THUMBNAILS = 2000
_SIDE = 480


class NotFoundError(DataError):
    """No photograph of that name, or it is no longer what was indexed."""


class Answers:
    """All that a page is told of one collection, see `search_app`. Several threads may ask at a time.

    What an update of the index changes meanwhile is seen.
    """

    def __init__(
        self, index: PhotoIndex, collection: Collection, device: str = "cpu", limits: DecodeLimits = DecodeLimits()
    ) -> None:
        self.index, self.collection, self._limits = index, collection, limits
        self._model = QueryModel(index, collection, device, limits)
        self._dropped: dict[str, tuple[bytes, NDArray[np.float32]]] = {}  # by name, the last few
        self._dropping = threading.Lock()
        self.thumbnail = lru_cache(_THUMBNAILS)(self._thumbnail)
        self._note = lru_cache(1)(lambda version: index.note(collection))

    def about(self) -> dict[str, Any]:
        """What is searched."""
        catalogue = self.index.catalogue
        return {
            "name": self.index.root.resolve().name,
            "model": self.collection.model,
            "count": catalogue.count(),
            "folders": catalogue.folders(),
        }

    def photos(self, chosen: PhotoFilter, start: int, count: int) -> dict[str, Any]:
        """Photographs as they were taken, newest first."""
        photos = self.index.catalogue.page(chosen, start, min(count, MOST))
        return {"total": self.index.catalogue.count(chosen), "photos": [_facts(photo) for photo in photos]}

    def search(self, names: Sequence[str], chosen: PhotoFilter, k: int) -> dict[str, Any]:
        """Photographs like the mean of some; these themselves are left out.

        Raises:
            NotFoundError: one of them is unknown.
        """
        vector = mean_direction(np.stack([self._vector(name) for name in names]))
        matches = self.index.search(self.collection, vector, min(k, MOST) + len(names), chosen)
        found = [match for match in matches if match.photo.digest.hex() not in names]
        facts = [{**_facts(m.photo), "score": round(m.score, 6), "copies": list(m.copies)} for m in found[:k]]
        notes = filter(None, (self._model.note, self._note(self.index.catalogue.version())))
        return {"total": self.index.catalogue.count(chosen), "photos": facts, "note": " ".join(notes)}

    def drop(self, data: bytes) -> dict[str, Any]:
        """Take in the bytes of a photograph to search with; it is kept in memory while few come after it.

        Raises:
            DataError: it cannot be decoded.
        """
        digest = hashlib.sha256(data).digest()
        name = digest.hex()
        if name not in self._dropped:
            vector = self.index.vector(self.collection, digest)
            vector = self._model.embed(data) if vector is None else vector
            with self._dropping:
                self._dropped[name] = data, vector
                for oldest in list(self._dropped)[:-_DROPPED]:
                    del self._dropped[oldest]
        return {"id": name}

    def _thumbnail(self, name: str) -> bytes:
        """A small JPEG without the original's metadata; the last ones are kept.

        Raises:
            NotFoundError: it is unknown.
            DataError: it cannot be decoded.
        """
        small = io.BytesIO()
        small_picture(self._bytes(name), "it", _SIDE, self._limits).save(small, "JPEG", quality=85)
        return small.getvalue()

    def original(self, name: str) -> tuple[str, bytes]:
        """The name and the bytes of an indexed photograph's file.

        Raises:
            NotFoundError: it is not in the index, or its file has other bytes now, or leads out of the folder.
        """
        digest, inside = _digest(name), self.index.root.resolve()
        for photo in self.index.catalogue.photos(digest):
            path = (inside / photo.path).resolve()
            if not (path.is_relative_to(inside) and path.is_file()):
                continue
            data = path.read_bytes()
            if hashlib.sha256(data).digest() == digest:
                return Path(photo.path).name, data
        raise NotFoundError("this photograph is not there, or has changed since it was indexed; index again")

    def why(self, query: str, match: str) -> dict[str, Any]:
        """Where two photographs are alike: both as the network saw them, and each place's part of their cosine.

        Raises:
            NotFoundError: one is unknown.
            ModelError: the network's embedding is no mean over places.
        """
        split, *seen = self._model.why(self._bytes(query), self._bytes(match))
        sides = zip(seen, (split.query, split.match), strict=True)
        return {
            "score": round(split.score, 6),
            "sides": [{"picture": data_uri(picture), "parts": parts.round(6).tolist()} for picture, parts in sides],
        }

    def warm_up(self) -> None:
        """Load the network and the vectors, so that the first question need not wait."""
        some = self.index.catalogue.page(PhotoFilter(), 0, 1)
        if some:
            self.search([some[0].digest.hex()], PhotoFilter(), 1)
        with suppress(DataError, ModelError):  # said to whoever drops a photograph
            self._model.load()

    def _vector(self, name: str) -> NDArray[np.float32]:
        if name in self._dropped:
            return self._dropped[name][1]
        known = self.index.vector(self.collection, _digest(name))
        if known is None:
            raise NotFoundError("this photograph is no longer known; drop it again")
        return known

    def _bytes(self, name: str) -> bytes:
        return self._dropped[name][0] if name in self._dropped else self.original(name)[1]


def _digest(name: str) -> bytes:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise NotFoundError("a photograph is named by 64 hexadecimal digits")
    return digest


def _facts(photo: Photo) -> dict[str, Any]:
    return {"id": photo.digest.hex(), **{name: getattr(photo, name) for name in ("path", "width", "height", "taken")}}
