"""Which store an index has, and what it finds; it is made in `PhotoIndex.store`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from timm_gam.core import DataError

TOKEN_VARIABLE = "MILVUS_TOKEN"
"""Environment variable with the token, or user:password, of a Milvus server; it is kept nowhere."""


@dataclass(frozen=True)
class StoreChoice:
    """Where the vectors of an index are searched, as people name it and as `index.json` keeps it.

    Attributes:
        address: "exact"; "milvus" for Milvus Lite in the index's folder; a path that ends in .db for Milvus Lite there;
            or the URL of a Milvus server or cluster.
        components: Of the whitened vectors that Milvus keeps, in [2, 32768].
        index_type: Of Milvus, such as HNSW, DISKANN, IVF_SQ8 or FLAT.
        build: How its index is built.
        search: How it is searched.
    """

    address: str = "exact"
    components: int = 256
    index_type: str = "HNSW"
    build: Mapping[str, Any] = field(default_factory=lambda: {"M": 32, "efConstruction": 200})
    search: Mapping[str, Any] = field(default_factory=lambda: {"ef": 400})

    def __post_init__(self) -> None:
        if not (self.address in ("exact", "milvus") or self.address.endswith(".db") or "://" in self.address):
            raise DataError(
                f"no store '{self.address}'; legal: exact, milvus (in the index), FILE.db (Milvus Lite), "
                "http://HOST:PORT or https://... (a Milvus server or cluster)"
            )
        if not 2 <= self.components <= 32768:
            raise DataError(f"{self.components} components; legal: 2 to 32768")

    @property
    def is_server(self) -> bool:
        """Whether Milvus runs elsewhere."""
        return "://" in self.address

    def uri(self, folder: Path) -> str:
        """What a Milvus client is given, for an index in a folder."""
        if self.address == "milvus":
            return str(folder.resolve() / "milvus.db")
        return self.address

    def token(self) -> str:
        """Of a server, from the environment."""
        return os.environ.get(TOKEN_VARIABLE, "") if self.is_server else ""


class Found(NamedTuple):
    """A photograph's digest, and the cosine of its vector and a query's, in [-1, 1]."""

    digest: bytes
    score: float
