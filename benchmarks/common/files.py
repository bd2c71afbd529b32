"""Files that appear whole or not at all, names that stay in their folder, work that one process does at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.common.errors import UserError
from benchmarks.common.paths import NAME_LENGTH

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two looks at a lock that another process holds

NUMBER_LENGTH = 30  # digits of a number in JSON that is believed; more overflow somewhere


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    A reader sees the old file, or the whole new one, after a power failure too: content and name are on the disk
    when this returns. A killed writer leaves a hidden file and nothing else. Any
    number of processes and threads may write the same path: each has a file of its own, and the last one stays.
    Creates the folder. The hidden name ends like that of `path`, because writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as place:
        partial = Path(place) / path.name
        yield partial
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)


@contextmanager
def readable() -> Iterator[None]:
    """Turns what keeps a file or a folder from being read into one line that names it; also a decorator.

    Even to ask whether a file is there fails where its folder must not be looked into.

    Raises:
        UserError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise UserError(f"{where}cannot be read ({error.strerror or error})") from error


@readable()
def require_readable(path: Path) -> None:
    """Raises UserError if a file cannot be opened and read: nibabel says so without what the system has said."""
    with path.open("rb") as file:
        file.read(1)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: the disk took less than was written to it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(root: Path, links: bool = False) -> Iterator[Path]:
    """Every file anywhere below a folder, dead links among them; none where there is no folder.

    Args:
        links: enter folders that are symbolic links as well, each folder once.

    Raises:
        OSError: a folder cannot be read; `Path.rglob` leaves it out in silence.
    """
    entered: set[str] = set()
    for folder, inside, names in os.walk(root, onerror=_raise, followlinks=links) if root.is_dir() else ():
        inside.sort()
        place = os.path.realpath(folder)
        if place in entered:  # a second link to it, or one that leads back up
            inside.clear()
            continue
        entered.add(place)
        yield from (Path(folder, name) for name in sorted(names))


def _raise(error: OSError) -> None:
    raise error


def is_dead_link(path: Path) -> bool:
    """Whether it is a link to what is not there, as git-annex and the like leave for files that were not fetched."""
    return path.is_symlink() and not path.exists()


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: a name of a file that is other bytes holds lone surrogates."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def safe_name(text: str) -> str:
    """A file or folder name for any text: no separator, no leading dot, not too long; no two texts share one.

    Ordinary names stay as they are.
    """
    name = quote(text, safe=" +@=,~()", errors="surrogatepass") or "%"
    if name.startswith("."):
        name = name.replace(".", "%2E")
    if len(name) > NAME_LENGTH:
        full = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        name = f"{name[: NAME_LENGTH - 18]}%~{full[:16]}"  # no text gives "%~" otherwise
    return name


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, creating the folder."""
    with atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: no such file, not JSON, nested too deeply, or with a number that nothing here could hold.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_int=_whole_number)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({' '.join(str(error).split())[:120]})") from error


def _whole_number(text: str) -> int:
    if len(text) > NUMBER_LENGTH:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


@contextmanager
def exclusively(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` for the block; only one process at a time, on one machine or on a shared disk.

    The lock goes with the process that holds it, however it ends; a lock file that a killed one left is no obstacle.

    Raises:
        UserError: another process holds it; `busy` is the message.
    """
    with ExitStack() as stack:
        if not _locked(path, stack):
            raise UserError(busy)
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """As `exclusively`, but wait for the other process."""
    with ExitStack() as stack:
        while not _locked(path, stack):
            time.sleep(POLL_SECONDS)
        yield


def _locked(path: Path, stack: ExitStack) -> bool:
    """Whether the lock is this process's now; `stack` then gives it back."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = stack.enter_context(path.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logger.warning("%s: this disk knows no locks; going on without", path)
        if _same_file(path, file.fileno()):
            stack.callback(path.unlink, missing_ok=True)
            return True
        # else its last holder removed it after it was opened here, and somebody may hold a new one


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
