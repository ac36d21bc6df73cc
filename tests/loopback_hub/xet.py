"""The default transfer, Xet, without a CAS server: the client is sent to a folder (`local://`) that it fills itself.

The Hub learns a file's Xet hash from the shards that the client leaves there. A shard starts with a header of 48
bytes; then, for each file, a record of 48 bytes (hash, flags, number of segments), the segments, as many verification
records where flag 31 is set, and the file's SHA-256 where flag 30 is set. A hash of all ones ends the files.
"""

from __future__ import annotations

import struct
from pathlib import Path

_RECORD = 48
_END = b"\xff" * 32


def find_xet_hash(store: Path, sha256: str) -> str | None:
    """The Xet hash of the file with this SHA-256, None where the store does not hold it."""
    for shard in sorted((store / "xet" / "xorbs" / "shards").glob("*.mdb")):
        if found := _files_of(shard.read_bytes()).get(sha256):
            return found
    return None


def _files_of(shard: bytes) -> dict[str, str]:
    files, at = {}, _RECORD
    while shard[at : at + 32] != _END and at + _RECORD <= len(shard):
        file_hash = _hexadecimal(shard[at : at + 32])
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        at += _RECORD * (1 + segments + (segments if flags >> 31 & 1 else 0))
        if flags >> 30 & 1:
            files[_hexadecimal(shard[at : at + 32])] = file_hash
            at += _RECORD
    return files


def _hexadecimal(words: bytes) -> str:
    """Four 64-bit words, least significant byte first, as Xet prints them."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", words))
