"""What one image may take to decode. Imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may take; the defaults are the command lines'.

    Attributes:
        scans: Of a JPEG. Progressive encoders write about ten; each costs a pass over every pixel.
        megabytes: Memory (2^20 bytes) to decode it to RGB: its file, its pixels, and what the decoder keeps.
        seconds: Processor time to decode it, so that a busy machine or a slow disk refuses nothing. Looked at whenever
            the decoder reads on: every 4 KB of a progressive JPEG, 64 KB of other JPEG, PNG, GIF and BMP; WebP, AVIF
            and compressed TIFF are decoded in one go, whose time their size bounds.

    >>> DecodeLimits(seconds=5)
    DecodeLimits(scans=100, megabytes=1024, seconds=5)
    """

    scans: int = 100
    megabytes: int = 1024
    seconds: float = 30

    @classmethod
    def of(cls, args: argparse.Namespace) -> DecodeLimits:
        """Those that the options of `add_decoding_arguments` give."""
        return cls(args.max_scans, args.max_decode_mb, args.max_decode_seconds)
