"""An entry of the cache: a folder of plain arrays and facts, written whole, opened as memory maps, removed at once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.files import write_json

logger = logging.getLogger(__name__)

SIDE_CAR = "entry.json"


def write_entry(folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    sizes = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:  # not through a memory map: on a full disk that kills the process
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        sizes[name] = path.stat().st_size
    write_json(folder / SIDE_CAR, {**facts, "files": sizes})


def open_entry(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """The arrays as memory maps, and the facts; None if there is no (whole) entry. Marks it as used."""
    facts = _read_json(folder / SIDE_CAR)
    if facts is None:
        return None
    arrays = {}
    try:
        for name, size in facts["files"].items():
            path = folder / f"{name}.npy"
            if path.stat().st_size != size:
                raise ValueError(f"{path}: another size than when it was written")
            empty = size <= 128  # only a header; there is nothing to map
            arrays[name] = np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))
    except FileNotFoundError:  # evicted between the two reads
        return None
    except Exception as error:  # a broken header of an array fails in as many ways as there is Python in it
        logger.warning("%s: damaged (%s); made again", folder, error)
        remove_entry(folder)
        return None
    _touch(folder / SIDE_CAR)
    return arrays, facts


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # evicted, or a cache that this user may only read: its order of eviction is its owner's
        return


def move_entry(partial: Path, folder: Path) -> None:
    """Rename; an equal entry that another writer put there in the meantime stays."""
    partial.chmod(0o755)  # mkdtemp makes it private
    try:
        os.rename(partial, folder)
    except OSError:
        if open_entry(folder) is not None:
            return
        remove_entry(folder)  # damaged
        os.rename(partial, folder)


def remove_entry(folder: Path) -> None:
    """Take an entry out of sight first, so that nobody sees half of it."""
    aside = folder.with_name(f".old-{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.rename(folder, aside)
    except OSError:  # another process was first, or the cache is another user's
        return
    shutil.rmtree(aside, ignore_errors=True)


def age_of(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if it is missing, unreadable or damaged, which all mean that it is made again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
