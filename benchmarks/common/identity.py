"""Names for content: digests that decide whether something has been computed already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.content import sha256_of, sha256_of_all
from benchmarks.common.weight_file import locate


def digest(content: Any, length: int = 16) -> str:
    """Hex SHA-256 of a JSON-like value, the same for equal values whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an identity")


def digest_of_folder(folder: Path) -> str:
    """Of every byte and the relative path of every file in a folder, wherever it lies."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(dict(zip([path.relative_to(folder).as_posix() for path in files], sha256_of_all(files), strict=True)))


def fingerprint_config(config: Mapping[str, Any], files: Iterable[str] = ("checkpoint",)) -> dict[str, Any]:
    """A method's configuration with the weights files that it names replaced by their content: no path decides.

    Args:
        files: settings that may name a file, by path or by its name in the weights folder.
    """
    found = {key: locate(str(config[key])) for key in files if config.get(key)}
    return {**config, **{key: sha256_of(path) for key, path in found.items() if path is not None}}
