"""The kept state of a training: written whole or not at all, read on worker 0, and equal on all workers."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.execution.training_storage import STATE, TrainingStorage
from benchmarks.execution.worker_group import WorkerGroup

logger = logging.getLogger(__name__)

FORMAT = 1


def save_state(path: Path, state: Mapping[str, Any], storage: TrainingStorage | None = None) -> None:
    """Put the state in the place of the one that is there; at every moment there is a whole one.

    Args:
        state: tensors, numbers, strings and containers of them, which `torch.load(weights_only=True)` reads.
        storage: where it is put in place of `path`.
    """
    if storage is not None:
        packed = io.BytesIO()
        torch.save({"format": FORMAT, **state}, packed)
        storage.write(STATE, packed.getvalue(), ".pt")
        return
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as stream:
        torch.save({"format": FORMAT, **state}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_state(path: Path, group: WorkerGroup, storage: TrainingStorage | None = None) -> dict[str, Any] | None:
    """The state that worker 0 has in the storage or at `path`, on every worker; None if there is none that can be read.

    The file of any other worker counts for nothing: folders that are not shared cannot lead workers apart.

    Raises:
        RuntimeError: what arrived at some worker is not what worker 0 has.
    """
    content = b""
    if group.rank == 0:
        content = (storage.read(STATE) if storage is not None else None) or b""
        if not content and path.is_file():
            content = path.read_bytes()
    content = group.bytes_from_first(content)
    group.require_equal(hashlib.sha256(content).digest(), "the kept state")
    if not content:
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # truncated or not of ours: torch raises whatever its reader happens to meet
        logger.warning("the kept state %s cannot be read (%s): starting over", path, " ".join(str(error).split())[:200])
        return None
    if state.get("format") != FORMAT:
        logger.warning("the kept state %s is of another version of tags-bench: starting over", path)
        return None
    return state


def digest_of(tensors: Iterable[torch.Tensor]) -> bytes:
    """SHA-256 over the values of tensors, wherever they lie."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.digest()


def tensors_in(content: Any) -> Iterable[torch.Tensor]:
    """All tensors in nested mappings and sequences, in their order."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from tensors_in(value)
