"""What both servers of the loopback Hub have in common: answers, ranges, and the faults on their way."""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.loopback_hub.faults import FaultKind
from tests.loopback_hub.repositories import CHUNK

if TYPE_CHECKING:
    from tests.loopback_hub.server import LoopbackHub

_PAUSE = 0.05  # seconds between the pieces of a slow answer
_STALL = 60.0  # longer than any client here waits


class Answers(BaseHTTPRequestHandler):
    """Sends JSON, typed errors and files; the current fault bends what is sent."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    fault: FaultKind | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded by the handlers, not printed."""

    def met_a_fault(self, body: bytes = b"") -> bool:
        """Look up the fault of this request; True where it has been answered by failing."""
        self.fault = self.hub.faults.next(f"{self.command} {self.path}")
        if self.fault == "500":
            self.error(500, "", "internal error")
        elif self.fault == "full":
            self.error(403, "", "Private repository storage limit reached")
        elif self.fault == "stall":
            time.sleep(_STALL)
            self.close_connection = True
        return self.fault in ("500", "full", "stall")

    def body(self) -> bytes:
        """The request's body, sent with a length or in chunks."""
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = {"Content-Type": "application/json", **(headers or {})}
        self.send(status, json.dumps(value).encode(), content)

    def error(self, status: int, code: str, message: str) -> None:
        self.json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path, headers: dict[str, str]) -> None:
        """Send a file or the range of it that was asked for."""
        whole = path.stat().st_size
        size = whole // 2 if self.fault == "truncate" else whole
        first, last, status = 0, size - 1, 200
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last, status = int(match[1]), min(int(match[2] or last), last), 206
            if first >= size:
                self.send(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        length = last - first + 1
        self._head(status, {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}, length)
        if self.command == "HEAD":
            return
        if self.fault == "drop":
            length //= 2
            self.close_connection = True
        piece = max(length // 8, 1) if self.fault == "slow" else CHUNK
        with path.open("rb") as file:
            file.seek(first)
            while length > 0:
                data = bytearray(file.read(min(piece, length)))
                if self.fault == "flip":
                    data[len(data) // 2] ^= 1
                    self.fault = None
                self.wfile.write(data)
                length -= len(data)
                if self.fault == "slow":
                    time.sleep(_PAUSE)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
