"""A Hub on the loopback interface: serves repositories from folders with the Hub's own protocol, to be pulled from.

The untouched clients (huggingface_hub, datasets, timm) talk to it over a real socket when HF_ENDPOINT names it.

    ROOT/models/OWNER/NAME/FILES      ROOT/datasets/OWNER/NAME/FILES
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["TOKEN", "LoopbackHub", "serve_hub"]

TOKEN = "hf_loopback"  # the only token that opens private repositories

_API = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]+))?(?:/(.*))?)?$")
_RESOLVE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


class LoopbackHub:
    """The repositories of a folder, and what was asked of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.url = ""

    def folder(self, kind: str, repo: str) -> Path:
        """Where the files of a repository go; made on first use. `kind` is "models" or "datasets"."""
        path = self.root / kind / repo
        path.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, kind: str, repo: str) -> str:
        """40 hexadecimal digits over names and contents."""
        digest = hashlib.sha1()
        for name in self.files(kind, repo):
            digest.update(name.encode() + (self.root / kind / repo / name).read_bytes())
        return digest.hexdigest()

    def files(self, kind: str, repo: str) -> list[str]:
        folder = self.root / kind / repo
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@contextmanager
def serve_hub(root: Path) -> Iterator[LoopbackHub]:
    """Serve the repositories below `root` on a free port until the block ends."""
    hub = LoopbackHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.requests.append(format % args)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        if match := _API.match(path):
            kind, repo, what, revision, below = match.groups()
            if self._may_see(kind, repo, revision if what != "refs" else None):
                self._api(kind, repo, what, below or "", body)
        elif match := _RESOLVE.match(path):
            dataset, repo, revision, name = match.groups()
            kind = "datasets" if dataset else "models"
            if self._may_see(kind, repo, revision):
                self._file(kind, repo, name)
        else:
            self._error(404, "EntryNotFound", "no such page")

    def _may_see(self, kind: str, repo: str, revision: str | None) -> bool:
        exists = (self.hub.root / kind / repo).is_dir()
        if not exists or (repo in self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._error(404 if "Authorization" in self.headers else 401, "RepoNotFound", "Repository not found")
            return False
        if revision not in (None, "main", "v1.0", "refs/convert/parquet", self.hub.commit(kind, repo)):
            self._error(404, "RevisionNotFound", "Revision not found")
            return False
        return True

    def _api(self, kind: str, repo: str, what: str | None, below: str, body: bytes) -> None:
        if what in (None, "revision"):
            siblings = [{"rfilename": name} for name in self.hub.files(kind, repo)]
            private = repo in self.hub.private
            self._json({"id": repo, "sha": self.hub.commit(kind, repo), "private": private, "siblings": siblings,
                        "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
        elif what == "tree":
            self._tree(kind, repo, below)
        elif what == "paths-info":
            form = parse_qs(body.decode())
            asked = form.get("paths") or json.loads(body or b"{}").get("paths", [])
            self._json([self._entry(kind, repo, name) for name in asked if name in self.hub.files(kind, repo)])
        else:
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.hub.commit(kind, repo)}
            self._json({"branches": [branch], "converts": [], "tags": []})

    def _tree(self, kind: str, repo: str, below: str) -> None:
        whole = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        top = self.hub.root / kind / repo / below
        if not top.is_dir():
            self._error(404, "EntryNotFound", "Entry not found")
            return
        found = sorted(top.rglob("*") if whole else top.iterdir())
        names = [(path.relative_to(self.hub.root / kind / repo).as_posix(), path.is_dir()) for path in found]
        self._json([self._folder_entry(n) if is_dir else self._entry(kind, repo, n) for n, is_dir in names])

    @staticmethod
    def _folder_entry(name: str) -> dict[str, Any]:
        return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}

    def _entry(self, kind: str, repo: str, name: str) -> dict[str, Any]:
        data = (self.hub.root / kind / repo / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _file(self, kind: str, repo: str, name: str) -> None:
        if name not in self.hub.files(kind, repo):
            self._error(404, "EntryNotFound", "Entry not found")
            return
        data = (self.hub.root / kind / repo / name).read_bytes()
        first, last, status = 0, len(data) - 1, 200
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last, status = int(match[1]), min(int(match[2] or last), last), 206
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit(kind, repo),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(status, data[first : last + 1], headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
