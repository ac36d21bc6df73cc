"""A Hub on the loopback interface: the real protocol over a real socket, to be pushed to and pulled from.

huggingface_hub, datasets and timm talk to it when HF_ENDPOINT names it. Repositories have commits, tags, privacy and
typed errors; large files go by LFS to a second server, as the Hub's go to a CDN, or by Xet to a local store. `faults`
breaks any of it on purpose.
"""

from __future__ import annotations

from tests.loopback_hub.faults import Fault
from tests.loopback_hub.repositories import Repository
from tests.loopback_hub.server import TOKEN, LoopbackHub, serve_hub

__all__ = ["TOKEN", "Fault", "LoopbackHub", "Repository", "serve_hub"]
