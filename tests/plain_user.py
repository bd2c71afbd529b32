"""Places that must not be looked into: nothing is closed to root, as whom containers run tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Files are opened as a user who owns none of them; as whoever runs the test, unless that is root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may read and write, unlike `tmp_path`; what a test closes in it is opened again."""
    place = Path(tempfile.mkdtemp(prefix="open-"))
    place.chmod(0o777)
    yield place
    for folder, _, _ in os.walk(place):  # top down
        os.chmod(folder, 0o755)
    shutil.rmtree(place)


def closed(path: Path, mode: int = 0) -> Path:
    """The same place, which its owner alone could open again."""
    path.chmod(mode)
    return path


def not_utf8(path: Path) -> Path:
    """The same place with an `é` in Latin-1 before the first dot of its name; skips where no disk takes it."""
    stem, dot, rest = os.fsencode(path.name).partition(b".")
    wanted = os.path.join(os.fsencode(path.parent), stem + b"\xe9" + dot + rest)
    try:
        os.rename(path, wanted)
    except OSError as error:
        pytest.skip(f"names of files are UTF-8 here ({error})")
    return Path(os.fsdecode(wanted))
