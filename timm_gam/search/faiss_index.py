"""Approximate nearest neighbours by FAISS: built in bounded memory, tuned to a wanted recall, kept on disk.

Vectors of length 1 are nearest by Euclidean distance where their cosine is highest, so FAISS is given distances: its
clusters are better than those of inner products. A gallery with vectors of zeros, whose cosine to all is 0, is given
inner products.

FAISS is for approximate search only here. Its matrix library misjudges some processors, so exact search is
`timm_gam.search.exact`, and what an index returns is always measured against that.

An index file is FAISS's own binary format, which its reader trusts: load only what you built. Beside it lies
FILE.json with the SHA-256 of the index, and nothing is given to FAISS that is not what it says. That guards against
damage and mix-ups, not against someone who can write both files.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, EmbeddingError, TimmGamError, atomic_path, file_sha256, one_line
from timm_gam.search.integer_vectors import Distance
from timm_gam.search.query_sample import QuerySample

ROWS_AT_A_TIME = 65536
_FORMAT = 2
_EFFORTS = tuple(sorted({round(2 ** (i / 2)) for i in range(23)}))  # 1 to 2048 in steps of about 1.4
_REFINEMENTS = (1, 2, 4, 8, 16, 32, 64, 128)


def import_faiss() -> Any:
    """The faiss module.

    Raises:
        TimmGamError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise TimmGamError("approximate search needs FAISS: pip install 'timm-gam[approximate]'") from error
    return faiss


@dataclass(frozen=True)
class IndexFacts:
    """What lies beside an index file.

    Attributes:
        factory: FAISS factory string.
        distance: "cosine" (of vectors that were L2-normalised first) or "euclidean".
        dim: D.
        count: N.
        gallery_sha256: Of the N prepared float32 vectors, in order.
        build_seconds: Training and adding.
        bytes: Of the index; in memory it takes about the same.
        parameters: FAISS search parameters, such as "nprobe=16"; empty for its defaults.
        versions: Of the packages that built it.
    """

    factory: str
    distance: Distance
    dim: int
    count: int
    gallery_sha256: str
    build_seconds: float
    bytes: int
    parameters: str
    versions: dict[str, str]


class ApproximateIndex:
    """A FAISS index and what is known of it."""

    def __init__(self, index: Any, facts: IndexFacts) -> None:
        self.index, self.facts = index, facts

    def search(
        self, queries: NDArray[np.floating], k: int = 10, *, self_index: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """(Q, k) int64 gallery rows, best first, -1 where fewer were found.

        Args:
            queries: (Q, D) float, as the model gave them.
            k: How many, at least 1.
            self_index: (Q,) int64, the gallery row that is the query itself and is left out, -1 for none.

        Raises:
            EmbeddingError: queries of another shape or not finite.
            DataError: k below 1.
        """
        if k < 1:
            raise DataError(f"{k} neighbours were asked for; at least 1 is needed")
        if queries.ndim != 2 or queries.shape[1] != self.facts.dim:
            raise EmbeddingError(f"queries have shape {queries.shape}; the index holds vectors (N, {self.facts.dim})")
        rows: NDArray[np.int64]
        _, rows = self.index.search(prepared(queries, self.facts.distance), k + (self_index is not None))
        return rows if self_index is None else _without(rows, self_index)

    def set_parameters(self, parameters: str) -> None:
        """Set FAISS search parameters such as "nprobe=16" or "nprobe=16,k_factor_rf=4"; they are saved with the index.

        Raises:
            DataError: this index has no such parameter, or cannot search with this value of it.
        """
        faiss = import_faiss()
        try:
            if parameters:
                faiss.ParameterSpace().set_index_parameters(self.index, parameters)
                self.index.search(np.zeros((1, self.facts.dim), np.float32), 1)  # some values are refused only here
        except RuntimeError as error:
            legal = ", ".join(self._parameter_names()) or "none"
            raise DataError(
                f"search parameters '{parameters}' do not fit {self.facts.factory}; it has {legal}"
            ) from error
        self.facts = replace(self.facts, parameters=parameters)

    def tune(self, wanted: float, sample: QuerySample) -> bool:
        """Set the search parameters that reach a recall in the least time, or the best there is.

        FAISS's own `ParameterSpace.explore` counts labels: of equal images it takes one for right and the others for
        wrong, and it knows no query that must not find itself.

        A setting counts when the lower end of its 95 % interval reaches `wanted`, so that other queries do too;
        measure on others than these.

        Args:
            wanted: recall@k in (0, 1].
            sample: Queries and their exact neighbours.

        Returns:
            Whether it is reached.
        """
        names = self._parameter_names()
        effort = next((name for name in ("nprobe", "efSearch") if name in names), None)
        if effort is None:
            return self._try("", sample)[0] >= wanted
        most = import_faiss().extract_index_ivf(self.index).nlist if effort == "nprobe" else max(_EFFORTS)
        efforts = [e for e in _EFFORTS if e <= most]
        tried: list[tuple[float, float, str]] = []
        for refinement in _REFINEMENTS if "k_factor_rf" in names else (None,):
            low, high = 0, len(efforts)
            while low < high:  # recall grows with effort
                middle = (low + high) // 2
                setting = f"{effort}={efforts[middle]}" + (f",k_factor_rf={refinement}" if refinement else "")
                reached, seconds = self._try(setting, sample)
                tried.append((reached, seconds, setting))
                low, high = (low, middle) if reached >= wanted else (middle + 1, high)
        enough = [(seconds, setting) for reached, seconds, setting in tried if reached >= wanted]
        self.set_parameters(min(enough)[1] if enough else max(tried)[2])
        return bool(enough)

    def save(self, path: Path) -> None:
        """Write `path` and `path`.json.

        Raises:
            OutputError: they cannot be written; none is left half-written.
        """
        faiss = import_faiss()
        with atomic_path(path) as index_file, atomic_path(_facts_path(path)) as facts_file:
            try:
                faiss.write_index(self.index, str(index_file))
            except RuntimeError as error:  # a full disk
                raise OSError(one_line(error)) from error
            content = {"format": _FORMAT, "sha256": file_sha256(index_file), **asdict(self.facts)}
            facts_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _try(self, setting: str, sample: QuerySample) -> tuple[float, float]:
        """Lower end of the 95 % interval of the recall (normal approximation), and seconds."""
        self.set_parameters(setting)
        began = time.perf_counter()
        found = self.search(sample.queries, sample.k, self_index=sample.self_index)
        seconds = time.perf_counter() - began
        recall = sample.recall(found)
        return float(recall.mean() - 1.96 * recall.std() / np.sqrt(len(recall))), seconds

    def _parameter_names(self) -> list[str]:
        space = import_faiss().ParameterSpace()
        space.initialize(self.index)
        ranges = space.parameter_ranges
        return [str(ranges.at(i).name) for i in range(ranges.size())]


def load_index(path: Path, gallery: NDArray[np.floating] | None = None) -> ApproximateIndex:
    """Load an index that `ApproximateIndex.save` wrote.

    Args:
        path: The index; `path`.json lies beside it.
        gallery: (N, D) float that it must have been built from; None leaves that unchecked.

    Raises:
        DataError: a file is missing, the index is not what its .json says, or it is of another gallery.
    """
    faiss = import_faiss()
    again = "build it again"
    try:
        content = json.loads(_facts_path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError("it is no record of an index")
        sha256 = content.pop("sha256")
        facts = IndexFacts(**content)
        found = file_sha256(path)
    except OSError as error:
        raise DataError(
            f"cannot read index '{error.filename}': {error.strerror}; an index is FILE and FILE.json"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"'{_facts_path(path)}' does not describe an index: {error}; {again}") from error
    if found != sha256:
        raise DataError(f"index '{path}' is not the one that its .json describes (SHA-256 differs); {again}")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise DataError(f"FAISS {faiss.__version__} cannot read index '{path}'; {again}") from error
    if (index.d, index.ntotal) != (facts.dim, facts.count):
        raise DataError(f"index '{path}' holds {index.ntotal} x {index.d}, not what its .json says; {again}")
    if gallery is not None and gallery.shape != (facts.count, facts.dim):
        raise DataError(f"index '{path}' is of {facts.count} x {facts.dim} embeddings, not of {gallery.shape}; {again}")
    if gallery is not None:
        digest = hashlib.sha256()
        for block in prepared_blocks(gallery, facts.distance):
            digest.update(block.data)
        if digest.hexdigest() != facts.gallery_sha256:
            raise DataError(f"index '{path}' is of other embeddings of the same shape; {again}")
    loaded = ApproximateIndex(index, facts)
    loaded.set_parameters(facts.parameters)
    return loaded


def prepared(vectors: NDArray[np.floating], distance: Distance) -> NDArray[np.float32]:
    """C-contiguous float32, of length 1 for cosine; a row of zeros stays zero."""
    if not np.isfinite(vectors).all():
        raise EmbeddingError("an embedding holds NaN or infinity; check the weights and the precision")
    block = vectors.astype(np.float64)
    if distance == "cosine":
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        block /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return np.ascontiguousarray(block, dtype=np.float32)


def prepared_blocks(gallery: NDArray[np.floating], distance: Distance) -> Iterator[NDArray[np.float32]]:
    """`prepared`, some rows at a time."""
    for start in range(0, len(gallery), ROWS_AT_A_TIME):
        yield prepared(gallery[start : start + ROWS_AT_A_TIME], distance)


def _facts_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _without(rows: NDArray[np.int64], itself: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each of (Q, k + 1) rows without the query's own, or without its last."""
    own = rows == itself[:, None]
    own[~own.any(axis=1), -1] = True
    kept: NDArray[np.int64] = rows[~own].reshape(len(rows), -1)
    return kept
