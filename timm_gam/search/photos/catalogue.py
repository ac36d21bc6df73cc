"""The catalogue of a photo index: one row for each file, in SQLite. What a filter selects is asked of it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

from timm_gam.core import DataError
from timm_gam.images import Digests
from timm_gam.search.photos.folder import Photo

_SCHEMA = """
create table if not exists photos (
    path text primary key, bytes integer, mtime_ns integer, digest blob, width integer, height integer, taken text,
    problem text
) without rowid;
create index if not exists by_digest on photos (digest);
"""
_COLUMNS = "path, bytes, mtime_ns, digest, width, height, taken"


@dataclass(frozen=True)
class PhotoFilter:
    """Which photographs may be found; the default is all.

    Attributes:
        folder: Below the folder that was indexed: in it or in its subfolders.
        since: "YYYY", "YYYY-MM" or "YYYY-MM-DD" of EXIF; a photograph without a date is not found.
        until: Likewise, and itself within.
        size: (width, height) in pixels, that a photograph has at least, lying or standing.
    """

    folder: str = ""
    since: str = ""
    until: str = ""
    size: tuple[int, int] | None = None

    @classmethod
    def read(cls, folder: str = "", since: str = "", until: str = "", size: str = "") -> PhotoFilter:
        """From text as people give it; "" is no condition.

        Raises:
            DataError: a date or a size is none.

        >>> PhotoFilter.read(size="1024x768").size
        (1024, 768)
        """
        for given in (since, until):
            if given and not _is_date(given):
                raise DataError(f"'{given}' is no date; legal: 2019, 2019-06, 2019-06-21")
        match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size) if size else None
        if size and not match:
            raise DataError(f"'{size}' is no size; legal: WIDTHxHEIGHT in pixels, such as 1024x768")
        return cls(folder, since, until, (int(match[1]), int(match[2])) if match else None)

    def where(self) -> tuple[str, list[object]]:
        """An SQL condition and its values."""
        parts: list[tuple[str, list[object]]] = [("problem is null", [])]
        if folder := self.folder.strip("/"):
            parts.append(("path > ? and path < ?", [f"{folder}/", f"{folder}0"]))  # "0" comes after "/"
        if self.since:
            parts.append(("taken >= ?", [self.since]))
        if self.until:
            parts.append(("substr(taken, 1, ?) <= ?", [len(self.until), self.until]))
        if self.size is not None:
            parts.append(("min(width, height) >= ? and max(width, height) >= ?", [*sorted(self.size)]))
        return " and ".join(text for text, _ in parts), [value for _, values in parts for value in values]


class Catalogue:
    """The rows of an index, each change of which is whole or not at all.

    Args:
        path: Of the SQLite file; made where it is missing.

    Raises:
        DataError: it cannot be read or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as database:
            database.executescript(_SCHEMA)

    def look(self, files: Iterable[Photo]) -> tuple[int, list[Photo]]:
        """Note which files there are now; how many, and those to be read, by path.

        These are new ones, those that have changed, and those that could not be decoded: permissions and limits change.
        """
        with self._open() as database:
            database.execute("drop table if exists found")
            database.execute("create table found (path text primary key, bytes integer, mtime_ns integer)")
            rows = ((file.path, file.byte_count, file.mtime_ns) for file in files)
            database.executemany("insert into found values (?, ?, ?)", rows)
            fresh = database.execute(
                "select path, bytes, mtime_ns from found except "
                "select path, bytes, mtime_ns from photos where problem is null order by path"
            )
            fresh_files = [Photo(*row) for row in fresh]
            return int(database.execute("select count(*) from found").fetchone()[0]), fresh_files

    def keep(self, rows: Iterable[tuple[Photo, str | None]]) -> None:
        """Keep photographs, and why one cannot be decoded, or None."""
        with self._open() as database:
            database.executemany(
                "insert or replace into photos values (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*astuple(photo), problem) for photo, problem in rows],
            )

    def remove_missing(self) -> int:
        """Remove what the last `look` did not find; how many files that were."""
        with self._open() as database:
            return database.execute("delete from photos where path not in (select path from found)").rowcount

    def digests(self, chosen: PhotoFilter | None = None) -> Digests:
        """Of all readable photographs, or of those that a filter lets through; each once, in order."""
        condition, values = (chosen or PhotoFilter()).where()
        rows = self._all(f"select digest from photos where {condition}", values)  # in order: six times the time
        return Digests.of(digest for (digest,) in rows).distinct()

    def photos(self, digest: bytes, chosen: PhotoFilter | None = None) -> list[Photo]:
        """The files with these bytes, by path."""
        condition, values = (chosen or PhotoFilter()).where()
        query = f"select {_COLUMNS} from photos where digest = ? and {condition} order by path"
        return [Photo(*row) for row in self._all(query, [digest, *values])]

    def page(self, chosen: PhotoFilter, start: int, count: int) -> list[Photo]:
        """Some photographs, newest first, then those without a date by path."""
        condition, values = chosen.where()
        query = f"select {_COLUMNS} from photos where {condition} order by taken is null, taken desc, path limit ?, ?"
        return [Photo(*row) for row in self._all(query, [*values, start, count])]

    def with_digests(self, digests: Sequence[bytes]) -> set[str]:
        """One path for each of these digests that are of readable photographs."""
        wanted = set(digests)
        rows = self._all("select min(path), digest from photos where problem is null group by digest")
        return {path for path, digest in rows if digest in wanted}

    def entered(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of the digests that some file has."""
        with self._open() as database:
            query = "select digest from photos where digest = ? limit 1"
            return {value for value in digests if database.execute(query, [value]).fetchone() is not None}

    def digests_of(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Path -> the digest that is kept of the file, of those that have one."""
        with self._open() as database:
            query = "select path, digest from photos where path = ? and digest != x''"
            rows = (database.execute(query, [path]).fetchone() for path in paths)
            return dict(row for row in rows if row is not None)

    def file(self, path: str) -> Photo:
        """What is kept of a file."""
        return Photo(*self._all(f"select {_COLUMNS} from photos where path = ?", [path])[0])

    def folders(self) -> list[str]:
        """Every folder that holds a readable photograph, itself or below, by name."""
        names: set[str] = set()
        for (path,) in self._all("select path from photos where problem is null"):
            while (path := path.rpartition("/")[0]) and path not in names:
                names.add(path)
        return sorted(names)

    def contents(self) -> Iterator[list[Photo]]:
        """The readable photographs by digest, those with the same bytes together and by path."""
        rows = self._all(f"select {_COLUMNS} from photos where problem is null order by digest, path")
        for _, group in groupby((Photo(*row) for row in rows), key=lambda photo: photo.digest):
            yield list(group)

    def version(self) -> tuple[int, int]:
        """Another one after every change."""
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_size

    def unreadable(self) -> dict[str, str]:
        """Path -> why it cannot be decoded."""
        return dict(self._all("select path, problem from photos where problem is not null order by path"))

    def count(self, chosen: PhotoFilter | None = None) -> int:
        """How many readable photographs there are, or how many of them a filter lets through."""
        condition, values = (chosen or PhotoFilter()).where()
        return int(self._all(f"select count(*) from photos where {condition}", values)[0][0])

    def _all(self, query: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        with self._open() as database:
            return database.execute(query, values).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, as those of a page come from several threads."""
        try:
            database = sqlite3.connect(self.path, timeout=30)
            try:
                with database:  # commits, or takes everything back
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            damaged = not isinstance(error, sqlite3.OperationalError) or str(error).startswith("no such")
            way = "remove it and index again" if damaged else "is it in use, can it be written, and has the disk room?"
            raise DataError(f"the catalogue '{self.path}' cannot be used: {error}; {way}") from error


def _is_date(text: str) -> bool:
    """Whether it is a day, a month or a year as ISO 8601 has them."""
    with suppress(ValueError):
        return bool(re.fullmatch(r"\d{4}(-\d{2}){0,2}", text) and date.fromisoformat(text + "-01-01"[len(text) - 4 :]))
    return False
