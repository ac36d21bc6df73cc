"""The two servers of the loopback Hub: the API and, under another port, the store of large files."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.loopback_hub.faults import Faults
from tests.loopback_hub.repositories import Commit, Objects, Repository, copy_out, read_folder

TOKEN = "hf_loopback"  # the only token that opens private repositories and may write


@dataclass
class LoopbackHub:
    """The repositories, what was asked of them, and what is to go wrong.

    Attributes:
        objects: All files.
        xet_store: Folder for Xet transfers; None offers LFS only.
        url: Of the API; HF_ENDPOINT.
        store_url: Where large files are; another host to the client, which must not see the token.
        requests: "METHOD path" of each request to the API.
        tokens_at_store: Authorization headers that came to the store; must stay empty.
    """

    objects: Objects
    xet_store: Path | None = None
    url: str = ""
    store_url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)
    tokens_at_store: list[str] = field(default_factory=list)

    def repository(self, kind: str, repo: str) -> Repository:
        """`kind` is "models", "datasets" or "spaces"."""
        return self.repositories[kind, repo]

    def add(self, kind: str, repo: str, folder: Path, *, private: bool = False, tag: str | None = None) -> Repository:
        """Commit a folder to a new or existing repository, without any client."""
        repository = self.repositories.setdefault((kind, repo), Repository(kind, repo, private))
        repository.commit(f"add {folder.name}", read_folder(self.objects, folder))
        if tag is not None:
            repository.tags[tag] = repository.head.id
        return repository

    def copy_out(self, kind: str, repo: str, folder: Path) -> Path:
        """The files at the head of a repository, in a folder."""
        return copy_out(self.objects, self.repository(kind, repo).head, folder)

    def head(self, kind: str, repo: str) -> Commit:
        return self.repository(kind, repo).head


@contextmanager
def serve_hub(root: Path, *, xet: bool = False, port: int = 0) -> Iterator[LoopbackHub]:
    """Serve a Hub without repositories until the block ends; its files go below `root`. Port 0 is a free one."""
    from tests.loopback_hub.api import ApiHandler
    from tests.loopback_hub.store import StoreHandler

    hub = LoopbackHub(Objects(root / "objects"), root / "xet" if xet else None)
    servers = [_start(ApiHandler, hub, port), _start(StoreHandler, hub, 0)]
    hub.url, hub.store_url = (f"http://127.0.0.1:{server.server_address[1]}" for server, _ in servers)
    try:
        yield hub
    finally:
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Also end the connections that clients keep alive: the next Hub on this port is another one."""
        super().server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no news."""


def _start(handler: type, hub: LoopbackHub, port: int) -> tuple[_Server, threading.Thread]:
    server = _Server(("127.0.0.1", port), type(handler.__name__, (handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    return server, thread
