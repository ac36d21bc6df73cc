"""Milvus through its own client: whitened vectors and what filters ask for. Nothing else imports it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_gam.core import DataError, TimmGamError, atomic_path
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.folder import Photo
from timm_gam.search.stores.store import Found, StoreChoice

MOST_FOUND = 16384
"""Milvus gives no more for a query."""

_MOST_FOLDERS, _MOST_BYTES = 4096, 4096
_PAGE = 10_000
_TIMEOUT = 60.0  # seconds


def open_milvus(uri: str, token: str = "") -> Any:
    """A client of Milvus Lite at a path, or of a server at a URL."""
    with milvus_errors(uri):
        from pymilvus import MilvusClient

        if "://" in uri:
            return MilvusClient(uri=uri, token=token, timeout=20)
        if find_spec("faiss"):
            _let_faiss_write_whole_files()
        # The client asks every 10 s whether Milvus is there, which Milvus Lite takes for an attack and complains of.
        quiet = {"grpc.keepalive_permit_without_calls": False}
        return MilvusClient(uri=uri, token=token, timeout=20, grpc_options=quiet)


@contextmanager
def milvus_errors(uri: str) -> Iterator[None]:
    """Within: what the client raises becomes one line.

    Raises:
        TimmGamError: the client is not installed.
        DataError: Milvus cannot be used.
    """
    try:
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC says on stderr whenever a loader process is forked
        from pymilvus import MilvusException
    except ImportError as error:
        raise TimmGamError("a Milvus store needs its client: pip install 'timm-gam[search]'") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what matters is raised
    try:
        yield
    except (MilvusException, ConnectionError, OSError) as error:
        reason = str(getattr(error, "message", "") or error).splitlines()[0] if str(error) else type(error).__name__
        way = (
            "is the server running?" if "://" in uri else "another process may have it open; end that, or run a server"
        )
        raise DataError(f"Milvus at '{uri}' cannot be used: {reason}; {way}") from error


def create_collection(client: Any, name: str, dim: int, choice: StoreChoice) -> None:
    """An empty collection of vectors with an index as chosen, unless it is there."""
    from pymilvus import DataType

    if client.has_collection(name):
        return
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("digest", DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    folders = {"element_type": DataType.VARCHAR, "max_capacity": _MOST_FOLDERS, "max_length": _MOST_BYTES}
    schema.add_field("folders", DataType.ARRAY, **folders)
    schema.add_field("taken", DataType.VARCHAR, max_length=32)
    for number in ("short_side", "long_side", "facts"):
        schema.add_field(number, DataType.INT64)
    index = client.prepare_index_params()
    build = {"params": dict(choice.build)}  # the client would send each by itself, and Milvus Lite ignore them
    index.add_index("vector", index_type=choice.index_type, metric_type="COSINE", params=build)
    client.create_collection(name, schema=schema, index_params=index)


def facts_of_rows(client: Any, name: str) -> dict[str, int]:
    """Digest -> `facts` of every row of a collection."""
    found: dict[str, int] = {}
    client.load_collection(name)
    rows = client.query_iterator(name, batch_size=_PAGE, output_fields=["digest", "facts"])
    while batch := rows.next():
        found.update((row["digest"], row["facts"]) for row in batch)
    rows.close()
    return found


def row_of(photos: Sequence[Photo]) -> dict[str, Any]:
    """What a collection keeps of files with the same bytes beside their vector; "facts" is what filters ask for as one
    number."""
    photo = photos[0]
    folders = {each.path[:place] for each in photos for place, letter in enumerate(each.path) if letter == "/"}
    facts = {
        "folders": [f for f in sorted(folders) if len(f.encode()) <= _MOST_BYTES][:_MOST_FOLDERS],
        "taken": photo.taken or "",
        "short_side": min(photo.width, photo.height),
        "long_side": max(photo.width, photo.height),
    }
    number = int.from_bytes(hashlib.sha256(json.dumps(facts).encode()).digest()[:8], "big", signed=True)
    return {"digest": photo.digest.hex(), **facts, "facts": number}


def search_collection(
    client: Any, name: str, vectors: NDArray[np.float32], k: int, chosen: PhotoFilter, parameters: dict[str, Any]
) -> list[list[Found]]:
    """The k nearest of each vector, nearest first."""
    _let_faiss_take_parameters()
    client.load_collection(name)
    found = client.search(
        name,
        data=vectors.tolist(),
        anns_field="vector",
        limit=min(k, MOST_FOUND),
        filter=expression(chosen),
        search_params={"metric_type": "COSINE", "params": parameters},
    )
    return [[Found(bytes.fromhex(hit["digest"]), float(hit["distance"])) for hit in hits] for hits in found]


def await_index(client: Any, name: str, on_progress: Callable[[int], None], *, lite: bool) -> None:
    """Return when all rows that were flushed are indexed, or none has been for a minute.

    Until then Milvus compares a query with each of the others, which finds no less and takes longer.
    """
    if lite:  # Milvus Lite says that it is done when it has not begun, and builds while it loads
        client.load_collection(name)
        return
    pending, changed = -1, time.monotonic()
    while time.monotonic() - changed < _TIMEOUT:
        now = int(client.describe_index(name, "vector").get("pending_index_rows", 0))
        if now != pending:
            on_progress(max(0, pending - now))
            pending, changed = now, time.monotonic()
        if now == 0:
            return
        time.sleep(0.1)


def _let_faiss_write_whole_files() -> None:
    """Let FAISS, by which Milvus Lite keeps its indexes, write each under another name before it has its own.

    Milvus Lite reads what is there, also where a process was killed while it wrote that or a thread of its own has not
    written all of it yet.
    """
    import faiss

    write: Any = faiss.write_index
    if hasattr(write, "writes_whole"):
        return

    def write_index(index: Any, path: Any, *rest: Any) -> None:
        if isinstance(path, str):
            with atomic_path(Path(path)) as temporary:
                write(index, str(temporary), *rest)
        else:  # a writer of FAISS
            write(index, path, *rest)

    write_index.writes_whole = True  # type: ignore[attr-defined]
    faiss.write_index = write_index  # type: ignore[assignment]


def _let_faiss_take_parameters() -> None:
    """Let FAISS, by which Milvus Lite searches in this process, take search parameters again.

    `faiss.contrib.torch_utils`, which pytorch-metric-learning imports, puts a search without them in the place of each
    index's own, for the whole process.
    """
    if "faiss.contrib.torch_utils" not in sys.modules:
        return
    import faiss

    kinds: list[Any] = [kind for kind in vars(faiss).values() if "search_numpy" in getattr(kind, "__dict__", ())]
    for kind in kinds:
        if not hasattr(kind.search, "takes_parameters"):
            kind.search = _with_parameters(kind.search, kind.search_numpy)


def _with_parameters(replaced: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    def search(self: Any, x: Any, k: int, *rest: Any, params: Any = None, **named: Any) -> Any:
        return replaced(self, x, k, *rest, **named) if params is None else own(self, x, k, params=params)

    search.takes_parameters = True  # type: ignore[attr-defined]
    return search


def expression(chosen: PhotoFilter) -> str:
    """A filter in Milvus's language."""
    parts = []
    if folder := chosen.folder.strip("/"):
        parts.append(f"array_contains(folders, {_quoted(folder)})")
    if chosen.since:
        parts.append(f"taken >= {_quoted(chosen.since)}")
    if chosen.until:
        parts.append(f'taken != "" and taken <= {_quoted(chosen.until + "~")}')  # "~" comes after what follows a date
    if chosen.size is not None:
        short, long = sorted(chosen.size)
        parts.append(f"short_side >= {short} and long_side >= {long}")
    return " and ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
