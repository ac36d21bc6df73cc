"""The store of large files: what the Hub's clients are sent to for LFS content, without their token."""

from __future__ import annotations

import re

from tests.loopback_hub.answers import Answers

_OBJECT = re.compile(r"^/objects/([0-9a-f]{64})$")


class StoreHandler(Answers):
    """GET, HEAD and PUT of /objects/SHA256."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._note_token()
        match = _OBJECT.match(self.path)
        if self.met_a_fault():
            return
        if match is None or not self.hub.objects.path(match[1]).is_file():
            self.error(404, "EntryNotFound", "no such object")
            return
        self.send_file(self.hub.objects.path(match[1]), {"ETag": f'"{match[1]}"'})

    def do_PUT(self) -> None:
        self._note_token()
        match, length = _OBJECT.match(self.path), int(self.headers.get("Content-Length", 0))
        if self.met_a_fault():
            self.close_connection = True  # its body is still on the way
            return
        if self.fault == "drop":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        try:
            stored = self.hub.objects.store(self.rfile, length)
        except ConnectionError:
            self.close_connection = True
            return
        if match is None or stored.sha256 != match[1]:
            self.error(400, "", "the content is not what its name says")
            return
        self.send(200, b"", {"ETag": f'"{stored.sha256}"'})

    def _note_token(self) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens_at_store.append(token)
