"""Photographs in a folder: which there are, and what each file says of itself without being decoded."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from typing import NoReturn

import numpy as np
from PIL import ExifTags, Image

from timm_gam.core import DataError
from timm_gam.data import FORMATS, ImageSet, PathReader, kind_of_file, kind_of_folder

_ROTATED = (5, 6, 7, 8)  # EXIF orientations that are turned by 90 degrees
_DATE = re.compile(r"(\d{4}):(\d{2}):(\d{2}) (\d{2}:\d{2}:\d{2})")


@dataclass(frozen=True)
class Photo:
    """A file that may be a photograph, and what it says of itself.

    Attributes:
        path: Below the folder that is indexed, with forward slashes.
        byte_count: Of the file.
        mtime_ns: When it was written.
        digest: SHA-256 of its bytes; b"" where it was not read yet, or cannot be.
        width: In pixels, upright; 0 where it has no readable header.
        height: Likewise.
        taken: "YYYY-MM-DDTHH:MM:SS" from EXIF, None where it does not say.
    """

    path: str
    byte_count: int
    mtime_ns: int
    digest: bytes = b""
    width: int = 0
    height: int = 0
    taken: str | None = None


def find_photos(root: Path) -> Iterator[Photo]:
    """Every photograph below `root`, by the endings in `timm_gam.data.ENDINGS`, whatever its folder; none is read.

    Files and folders are left out by their names as when labelled images are read: hidden ones and those of the system;
    links that lead out of `root` too. A name that is not UTF-8 is written with escapes, so that its file is named among
    those that cannot be read.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise DataError(
            f"cannot read folder '{error.filename}': {error.strerror}; make it readable, or move it elsewhere"
        ) from error

    inside = root.resolve()
    for here, folders, names in os.walk(root, onerror=refuse):  # which does not follow links to folders
        folders[:] = sorted(name for name in folders if kind_of_folder(name) == "folder")
        for path in (Path(here, name) for name in sorted(names) if kind_of_file(name) == "image"):
            with suppress(OSError, RuntimeError):  # gone meanwhile, or a link to itself
                if path.is_symlink() and not path.resolve().is_relative_to(inside):
                    continue
                stat = path.stat()
                if S_ISREG(stat.st_mode):
                    time = (stat.st_mtime_ns + 2**63) % 2**64 - 2**63  # years past 2262 and what a broken clock wrote
                    name = path.relative_to(root).as_posix().encode(errors="surrogateescape")
                    yield Photo(name.decode(errors="backslashreplace"), stat.st_size, time)


def read_facts(root: Path, photo: Photo) -> Photo:
    """Read a file once: its digest, and what its header and EXIF say. Nothing is decoded and nothing raised."""
    try:
        data = (root / photo.path).read_bytes()
    except OSError:
        return photo
    photo = replace(photo, digest=hashlib.sha256(data).digest())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                exif = image.getexif()
                width, height = image.size
                taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
                taken = taken or exif.get(ExifTags.Base.DateTime)
                if exif.get(ExifTags.Base.Orientation) in _ROTATED:
                    width, height = height, width
    except Exception:  # plug-ins raise anything; why it cannot be decoded is said when it is embedded
        return photo
    return replace(photo, width=width, height=height, taken=_date(taken))


def photo_set(root: Path, paths: Sequence[str]) -> ImageSet:
    """Some photographs below `root` as an image set without classes."""
    labels = np.zeros(len(paths), dtype=np.int64)
    return ImageSet(root.name, tuple(paths), labels, ("photos",), PathReader.of(root, paths))


def _date(taken: object) -> str | None:
    """A date of EXIF as ISO 8601; None of what is none, such as the zeros of a camera whose clock was never set."""
    date = _DATE.match(taken) if isinstance(taken, str) else None
    with suppress(ValueError):
        return datetime.fromisoformat("{}-{}-{}T{}".format(*date.groups())).isoformat() if date else None
    return None
