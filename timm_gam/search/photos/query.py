"""The model of a collection, and photographs as the vectors that are searched with."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import normalize

from timm_gam.core import DataError, ModelError, UnreadableImageError
from timm_gam.data import ImageSet
from timm_gam.embed import EmbeddedBatch, Embedder, EmbedSettings, LocationSplit, location_split, with_head
from timm_gam.images import DecodeLimits, as_seen, content_digest, load_image, resolve_preprocessing
from timm_gam.models import load_model
from timm_gam.rerank import Recipe, UnitVectors
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.photo_index import Collection, Match, PhotoIndex

DEFAULT_MODELS = ("resnet50.a1_in1k", "test_resnet_gam.corel")
"""The first that can be had: ImageNet features from the Hub, else the tiny network in the package, which needs none."""


def load_collection(
    model: str,
    checkpoint: str | Path | None = None,
    *,
    head: str | None = None,
    settings: EmbedSettings = EmbedSettings(),
) -> tuple[Collection, Embedder]:
    """A model ready to embed photographs, and the collection that it makes.

    JPEGs that are much larger than the network's input are reduced while they are decoded.

    Raises:
        ModelError: the model or its weights cannot be had.
    """
    loaded = with_head(load_model(model, checkpoint=checkpoint), head)
    embedder = Embedder(loaded, resolve_preprocessing(loaded.model, shrink_on_load=True), settings)
    file = None if checkpoint is None else str(Path(checkpoint).resolve())
    kept = head if head in (None, "none") else str(Path(head).resolve())
    return Collection(model, file, embedder.settings.amp_dtype is not None, embedder.key, kept), embedder


@dataclass(frozen=True)
class _One:
    photo: Path | bytes
    parallel: bool = False

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Path | bytes]]:
        for index in indices:
            yield index, self.photo


class QueryModel:
    """Turns photographs into queries of one collection. Its network is loaded when it is first needed.

    Attributes:
        note: What a user should know of how it fits the collection, or "".
    """

    def __init__(
        self, index: PhotoIndex, collection: Collection, device: str = "cpu", limits: DecodeLimits = DecodeLimits()
    ) -> None:
        self.index, self.collection, self._device, self._limits = index, collection, device, limits
        self.note = ""
        self._lock = threading.Lock()

    def of_files(self, photos: Sequence[Path]) -> NDArray[np.float32]:
        """(D,) the mean of the photographs' embeddings, each of length 1; those that are kept are not made again.

        Raises:
            DataError: a file cannot be read, or the model is no longer the one that made the collection.
        """
        digests = [content_digest(photo, str(photo)) for photo in photos]
        vectors = [self.index.vector(self.collection, digest) for digest in digests]
        made = [self.embed(photo) if vector is None else vector for photo, vector in zip(photos, vectors, strict=True)]
        return mean_direction(np.stack(made))

    def embed(self, photo: Path | bytes) -> NDArray[np.float32]:
        """(D,) float32 embedding of a file or of its bytes, made now.

        Raises:
            DataError: as `of_files`.
        """
        name = "dropped" if isinstance(photo, bytes) else str(photo)
        images = ImageSet(name, (name,), np.zeros(1, dtype=np.int64), ("photos",), _One(photo))
        found: list[EmbeddedBatch] = []
        try:
            with self._lock:
                self._embedder.embed(images, np.arange(1), found.append)
        except UnreadableImageError as error:
            raise DataError(f"cannot read photo '{name}': {error.reason}; name an image file") from error
        vector: NDArray[np.float32] = found[0].vectors[0]
        return vector

    def load(self) -> None:
        """Load the network now rather than when it is first needed.

        Raises:
            DataError, ModelError: as `of_files`.
        """
        with self._lock:
            _ = self._embedder

    def why(self, query: bytes, match: bytes) -> tuple[LocationSplit, Image.Image, Image.Image]:
        """What each place of two encoded photographs adds to their cosine, and both as the network saw them.

        Raises:
            DataError: one cannot be read.
            ModelError: the embedding is no mean over places.
        """
        if self.collection.views or "head" in self.collection.key:
            raise ModelError(
                "these vectors were pooled, averaged over views or projected by a head, so their cosine does not "
                "split over places; index without those options for that"
            )
        with self._lock:
            loaded, preprocessing = self._embedder.loaded, self._embedder.preprocessing
            transform = preprocessing.transform()
            a, b = (transform(load_image(data, "it", preprocessing.shrink, self._limits)[0]) for data in (query, match))
            split = location_split(loaded.model.cpu().float(), a, b, self._embedder.settings.layer)
        return split, as_seen(a, preprocessing), as_seen(b, preprocessing)

    @functools.cached_property
    def _embedder(self) -> Embedder:
        collection = self.collection
        settings = EmbedSettings(
            batch_size=1,
            workers=0,
            device=self._device,
            amp_dtype=torch.bfloat16 if collection.amp else None,
            limits=self._limits,
            **collection.views,
        )
        _, embedder = load_collection(collection.model, collection.checkpoint, head=collection.head, settings=settings)
        differ = sorted(name for name, value in collection.key.items() if embedder.key.get(name) != value)
        if set(differ) - {"versions"}:
            raise DataError(
                f"'{collection.model}' is not what indexed '{self.index.root}': {', '.join(differ)} differ; "
                f"bring the index up to date: timm-gam search index {self.index.root}"
            )
        if differ:
            then, now = collection.key["versions"], embedder.key["versions"]
            changed = ", ".join(f"{name} {then[name]} -> {now[name]}" for name in now if then.get(name) != now[name])
            self.note = f"note: indexed with other versions ({changed}); index again for vectors of one kind"
        return embedder


def mean_direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) mean of (N, D) vectors, each brought to length 1; one stays as it is."""
    mean: NDArray[np.float32] = (
        normalize(torch.from_numpy(vectors)).mean(dim=0).numpy() if len(vectors) > 1 else vectors[0]
    )
    return mean


def search_reranked(
    index: PhotoIndex,
    collection: Collection,
    query: NDArray[np.float32],
    recipe: Recipe,
    k: int = 10,
    chosen: PhotoFilter | None = None,
) -> list[Match]:
    """As `PhotoIndex.search`, in the order of a recipe; the score of a match still is its cosine.

    Every vector of the collection is read, and what a re-ranking prepares is prepared anew: seconds for 10,000.

    Raises:
        DataError: the collection has too few photographs for the recipe.
    """
    digests, embeddings = index.catalogue.digests(PhotoFilter()), index.embeddings(collection)
    digests = digests.take(~embeddings.missing(digests))
    vectors = embeddings.read(digests)
    queries = torch.from_numpy(query[None].astype(np.float32))
    reranker = recipe.reranker(recipe.prepare(queries), recipe.prepare(vectors))
    order = reranker.block(slice(0, 1))[0].argsort(descending=True, stable=True)
    cosines = UnitVectors(vectors).similarities(normalize(queries))[0]
    return index.matches(((digests[row], float(cosines[row])) for row in order.tolist()), k, chosen)
