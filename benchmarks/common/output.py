"""The folder that everything is written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.paths import user_path

DEFAULT_OUT = Path("tags-bench-out")


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
