"""Options that all commands which publish photographs share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm_gam.images import add_decoding_arguments


def add_photos_arguments(parser: argparse.ArgumentParser) -> None:
    """How a repository of photographs is made and kept, and what one photograph may take to decode."""
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="build and compare with the Hub, send nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also keep the repository in this folder")
    add_decoding_arguments(parser)
