"""The content of files: SHA-256 of every byte, computed once and remembered.

A file is known again by its path, size, times (of the content and of the inode) and inode number. What is
remembered lies in one SQLite file below the data home. Any number of processes may use it; where it is missing,
locked, damaged or cannot be written, files are read again, and nothing else is lost. So are files whose path is not
UTF-8, which SQLite does not take.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.files import is_utf8
from benchmarks.common.home import data_home

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file that changed more recently is not remembered: a disk's clock can be too coarse to show its next change."""

READERS = 4  # files read at a time
ATTEMPTS = 3  # of a file that changes while it is read
WAIT_SECONDS = 5.0  # for another process that writes to the memory
_BATCH = 500  # paths in one query; SQLite takes 999 and more


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a whole file, remembered until it changes.

    Raises:
        UserError: no such file, or it cannot be read.
    """
    return sha256_of_all([path])[0]


def sha256_of_all(paths: Sequence[Path]) -> list[str]:
    """As `sha256_of`, for many files: those that are not remembered are read several at a time."""
    seen = {path: _marks(path) for path in paths}
    places = {path: str(path.resolve()) for path in seen}
    known = _remembered({places[path]: marks for path, marks in seen.items()})
    new = [path for path in seen if places[path] not in known]
    with ThreadPoolExecutor(READERS) as pool:
        read = dict(zip(new, pool.map(_read, new), strict=True))
    _remember({places[path]: (marks, found) for path, (marks, found) in read.items() if marks})
    return [known[places[path]] if places[path] in known else read[path][1] for path in paths]


def remembered(what: str, content: str, compute: Callable[[], str]) -> str:
    """What follows from the content of a file alone, computed once and remembered by the SHA-256 of that content.

    Args:
        what: is computed; another word for another computation.
    """
    place = f"{what} of {content}"  # no path: those are whole ones
    found = _remembered({place: what}).get(place)
    if found is None:
        found = compute()
        _remember({place: (what, found)})
    return found


def _read(path: Path) -> tuple[str, str]:
    """The marks under which a file may be remembered ("" if it may not) and its SHA-256."""
    found = ""
    for _ in range(ATTEMPTS):
        before = _marks(path)
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        if _marks(path) == before:
            return (before if _settled(path) else ""), found
    return "", found


def _marks(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _settled(path: Path) -> bool:
    status = path.stat()
    return time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS


def _unreadable(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOENT:
        return UserError(f"{path}: no such file")
    return UserError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})")


# -- the memory --


def _memory() -> Path:
    return data_home() / "hashes-1.sqlite"


@contextmanager
def _opened() -> Iterator[sqlite3.Connection]:
    """A connection of its own for each use: one that a process inherits by a fork would be damaged."""
    path = _memory()
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what a power failure takes is computed again
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files"
            " (path TEXT PRIMARY KEY, marks TEXT, sha256 TEXT, proof TEXT) WITHOUT ROWID"
        )
        yield connection
        connection.commit()
    finally:
        connection.close()


def _remembered(seen: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 of those files that are remembered with these very marks."""
    found: dict[str, str] = {}
    if not _memory().exists():
        return found
    places = list(filter(is_utf8, seen))
    try:
        with _opened() as memory:
            for start in range(0, len(places), _BATCH):
                batch = places[start : start + _BATCH]
                query = f"SELECT path, marks, sha256, proof FROM files WHERE path IN ({','.join('?' * len(batch))})"
                for path, marks, sha256, proof in memory.execute(query, batch):
                    if marks == seen[path] and proof == _proof(path, marks, sha256):
                        found[path] = sha256
    except (sqlite3.Error, OSError) as error:
        _without(error)
    return found


def _remember(files: Mapping[str, tuple[str, str]]) -> None:
    rows = [(path, marks, found, _proof(path, marks, found)) for path, (marks, found) in files.items() if is_utf8(path)]
    if not rows:
        return
    try:
        with _opened() as memory:
            memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
    except (sqlite3.Error, OSError) as error:
        _without(error)


def _proof(path: str, marks: str, sha256: str) -> str:
    """So that a damaged page of the memory is never taken for a hash."""
    fields = f"{path}\0{marks}\0{sha256}".encode(errors="surrogateescape")
    return hashlib.blake2b(fields, digest_size=8).hexdigest()


def _without(error: Exception) -> None:
    """Go on without the memory; a damaged one is thrown away, it holds nothing that the files do not."""
    logger.info("%s: hashes are not remembered (%s)", _memory(), error)
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        try:
            _memory().unlink(missing_ok=True)
        except OSError as failure:
            logger.info("%s: cannot be removed (%s)", _memory(), failure)
