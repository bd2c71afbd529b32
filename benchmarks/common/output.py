"""The folder that everything is written to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.common.paths import user_path

DEFAULT_OUT = Path("tags-bench-out")


@contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """As `files.atomically`, for a file that a user has named. Raises UserError if it cannot be written."""
    try:
        with atomically(user_path(path)) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def writable_folder(out: str | Path) -> Path:
    """The output folder, absolute, created. Raises UserError if nothing can be written there."""
    folder = user_path(out).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"output folder {out}: cannot be written ({os.strerror(error.errno or 0)})") from error
    return folder
