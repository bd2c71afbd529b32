"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
