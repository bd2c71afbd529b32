"""Files that appear whole or not at all, and work that only one process does at a time."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    A reader sees the old file, or the whole new one; a killed writer leaves a hidden file and nothing else. Any
    number of processes and threads may write the same path: each has a file of its own, and the last one stays.
    Creates the folder. The hidden name ends like that of `path`, because writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as place:
        partial = Path(place) / path.name
        yield partial
        os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, creating the folder."""
    with atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")


@contextmanager
def exclusively(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` for the block; only one process at a time, on one machine or on a shared disk.

    The lock goes with the process that holds it, however it ends; a lock file that a killed one left is no obstacle.

    Raises:
        UserError: another process holds it; `busy` is the message.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(busy) from error
            if _same_file(path, file.fileno()):
                break  # else its last holder removed it after it was opened here, and somebody may hold a new one
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
