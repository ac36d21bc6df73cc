"""Whitened embeddings in Milvus: Milvus Lite within this process, a server, or a cluster, by the same code."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from timm_gam.core import DataError, MachineError, ProgressBar, available_memory, no_progress, read_json, write_json
from timm_gam.embed import FileStore
from timm_gam.images import Digests
from timm_gam.rerank import Whitening, fit_whitening, load_whitening
from timm_gam.search.blocks import slices
from timm_gam.search.photos.catalogue import Catalogue, PhotoFilter
from timm_gam.search.stores.milvus_client import (
    await_index,
    create_collection,
    facts_of_rows,
    milvus_errors,
    open_milvus,
    row_of,
    search_collection,
)
from timm_gam.search.stores.store import Found, StoreChoice

_BATCH = 1000
_FLUSH = 20_000
_FITTED_ON = 50_000  # photographs at most
_PER_COMPONENT = 10  # photographs that a whitening needs: of fewer it makes every two as unlike as any others
_GROWTH = 4  # times as many photographs, and it is fitted again
_LITE_BYTES = 6  # held by Milvus Lite for each byte of the vectors, and for each row
_LITE_ROW = 1700
_LITE_BUILD = (
    1.5  # times as much while an index is built: measured at 100,000 x 256, benchmarks/results/photo_search.json
)
_SERVER_BYTES = 1.5


@dataclass(frozen=True)
class Fit:
    """What makes vectors of embeddings: `whitening`, or nothing where there are few photographs; and its name."""

    whitening: Whitening | None
    fitted_on: int
    name: str

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) -> (N, W) of length 1."""
        rows = torch.from_numpy(np.array(embeddings, dtype=np.float32))
        made = torch.nn.functional.normalize(rows) if self.whitening is None else self.whitening(rows)
        vectors: NDArray[np.float32] = made.float().numpy()
        return vectors


@dataclass(frozen=True)
class _Marker:
    """Where the last whole update put vectors, and by which `Fit`."""

    address: str
    collection: str
    fit: str


class MilvusStore:
    """Finds by the cosines of whitened vectors, which are kept in Milvus.

    A collection's name has the hash of what made its embeddings and of the whitening, so that vectors of two kinds are
    never mixed. Rows are named by digest; an update compares what is there with the catalogue, so one that was ended at
    any moment leaves nothing lost or twice.

    Args:
        choice: Which Milvus, and its index.
        folder: Of the photo index; whitenings are kept in it.
        catalogue: Says which photographs there are.
        embeddings: Of a collection.
        name: Of the index and its collection: letters, digits and underscores.
    """

    def __init__(
        self, choice: StoreChoice, folder: Path, catalogue: Catalogue, embeddings: FileStore, name: str
    ) -> None:
        self._choice, self._folder, self._uri = choice, folder, choice.uri(folder)
        self._catalogue, self._embeddings, self._of = catalogue, embeddings, name
        self._marker, self._prefix = folder / f"milvus-{name}.json", f"photos_{name}_"
        self._fits: dict[str, Fit] = {}

    @functools.cached_property
    def milvus(self) -> Any:
        """Its client, opened when it is first needed."""
        return open_milvus(self._uri, self._choice.token())

    def plan(self, count: int, dim: int) -> str:
        """See `ExactStore`.

        Raises:
            MachineError: more than there is; what to do instead.
        """
        whitened = count >= _PER_COMPONENT * self._choice.components and dim > self._choice.components
        width = self._choice.components if whitened else dim
        if self._choice.is_server:
            takes = count * (4 * width * _SERVER_BYTES + 200)
            return (
                f"{count:,} vectors of {width} dimensions: Milvus at {self._choice.address} will hold about "
                f"{takes / 2**30:.2f} GB with an index in memory"
            )
        takes, free = count * (4 * width * _LITE_BYTES + _LITE_ROW), available_memory()
        need = (
            f"{count:,} vectors of {width} dimensions: Milvus Lite will hold about {takes / 2**30:.2f} GB in memory, "
            f"and {_LITE_BUILD * takes / 2**30:.2f} GB while the index is built"
        )
        if free is not None and _LITE_BUILD * takes > free:
            raise MachineError(
                f"{need}, and {free / 2**30:.1f} GB are free; choose --store exact, which maps its vectors from disk, "
                "--components of a smaller number, or a Milvus server (--store http://HOST:19530)"
            )
        return need

    def update(self, progress: ProgressBar = no_progress) -> None:
        """Add what is new, let go of what is gone. Ended at any moment, the next update goes on.

        Raises:
            DataError: Milvus cannot be used.
        """
        count = self._catalogue.count()
        fit = self._fit(count)
        name = self._name(fit)
        dim = int(self._embeddings.read(self._catalogue.digests()[:1]).shape[1])
        width = dim if fit.whitening is None else len(fit.whitening.projection)
        with milvus_errors(self._uri):
            self._fill(name, fit, width, progress)
        write_json(self._marker, asdict(_Marker(self._choice.address, name, fit.name)))
        with milvus_errors(self._uri):
            for other in self.milvus.list_collections():
                if other.startswith(self._prefix) and other != name:
                    self.milvus.drop_collection(other)

    def _fill(self, name: str, fit: Fit, width: int, progress: ProgressBar) -> None:
        """Make a collection hold what the catalogue has."""
        create_collection(self.milvus, name, width, self._choice)
        have, lite = facts_of_rows(self.milvus, name), not self._choice.is_server
        if lite:
            self.milvus.release_collection(name)  # else it indexes what is flushed beside the loading that does so too
        lacking: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for photos in self._catalogue.contents():
            row = row_of(photos)
            there = have.pop(row["digest"], None)
            if there != row["facts"]:
                (lacking if there is None else changed).append(row)
        since = 0
        with progress("into Milvus", "vector", len(lacking) + len(changed)) as on_progress:
            for put, rows in ((self.milvus.insert, lacking), (self.milvus.upsert, changed)):
                for batch in (rows[part] for part in slices(0, len(rows), _BATCH)):
                    vectors = fit(self._embeddings.read(Digests.of(bytes.fromhex(row["digest"]) for row in batch)))
                    put(name, [{**row, "vector": v} for row, v in zip(batch, vectors.tolist(), strict=True)])
                    on_progress(len(batch))
                    since += len(batch)
                    if since >= _FLUSH:  # to disk, out of memory
                        self.milvus.flush(name)
                        since = 0
            gone = list(have)
            for part in slices(0, len(gone), _BATCH):
                self.milvus.delete(name, ids=gone[part])
            if lacking or changed or gone:
                self.milvus.flush(name)
        with progress("index", "vector", None) as on_progress:
            await_index(self.milvus, name, on_progress, lite=lite)

    def nearest(
        self, queries: NDArray[np.float32], k: int, chosen: PhotoFilter | None = None
    ) -> Sequence[Sequence[Found]]:
        """See `ExactStore`; cosines are those of the whitened vectors.

        Raises:
            DataError: Milvus cannot be used.
        """
        name, fit = self._filled()
        parameters = dict(self._choice.search)
        if "ef" in parameters:
            parameters["ef"] = max(int(parameters["ef"]), k)
        with milvus_errors(self._uri):
            return search_collection(self.milvus, name, fit(queries), k, chosen or PhotoFilter(), parameters)

    def _name(self, fit: Fit) -> str:
        index = [self._choice.index_type, sorted(self._choice.build.items())]
        return f"{self._prefix}{fit.name}_{_hash(json.dumps(index).encode())}"

    def _filled(self) -> tuple[str, Fit]:
        """The collection that the last whole update filled, and what made its vectors."""
        marker = read_json(self._marker, _Marker, DataError, "index again")
        if marker.fit not in self._fits:
            self._fits = {fit.name: fit for fit in self._stored_fits()}
        if marker.address != self._choice.address or marker.fit not in self._fits:
            raise DataError(f"Milvus at '{self._uri}' does not hold what '{self._marker}' says; index again")
        return marker.collection, self._fits[marker.fit]

    def _fit(self, count: int) -> Fit:
        """The one that is there, or a new one where there are many more photographs than that was fitted on."""
        components = self._choice.components
        best = max(self._stored_fits(), key=lambda fit: fit.fitted_on)
        if count < _PER_COMPONENT * components or (best.fitted_on and count < _GROWTH * best.fitted_on):
            return best
        digests = self._catalogue.digests()
        chosen = np.sort(np.random.default_rng(0).permutation(len(digests))[:_FITTED_ON])
        sample = np.array(self._embeddings.read(digests.take(chosen)))
        if sample.shape[1] <= components:
            return best
        whitening = fit_whitening(torch.from_numpy(sample), components)
        whitening.save(self._folder / f"whitening-{self._of}-{components}-{len(digests)}.safetensors")
        return max(self._stored_fits(), key=lambda fit: fit.fitted_on)

    def _stored_fits(self) -> Iterator[Fit]:
        yield Fit(None, 0, "raw")
        pattern = re.compile(rf"whitening-{self._of}-{self._choice.components}-(\d+)\.safetensors")
        for path in sorted(self._folder.glob("whitening-*.safetensors")):
            if match := pattern.fullmatch(path.name):
                whitening = load_whitening(path)
                yield Fit(whitening, int(match[1]), _hash(whitening.projection.numpy().tobytes()))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
