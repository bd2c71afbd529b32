"""This worker among the others of one training: what they have to agree on, and how they do."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed

WAIT = timedelta(hours=2)  # for the slowest worker to prepare its cases or to validate


class WorkerGroup:
    """Small messages between the workers, on the CPU: they make nobody wait for a GPU.

    With one worker every method gives back what it was given. Every worker must call the same methods in the same
    order.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._group: torch.distributed.ProcessGroup | None = None
        if world_size > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=WAIT)
            assert isinstance(group, torch.distributed.ProcessGroup)  # every worker is a member
            self._group = group

    def from_first(self, values: torch.Tensor) -> torch.Tensor:
        """The values that worker 0 has."""
        if self._group is not None:
            torch.distributed.broadcast(values, 0, group=self._group)
        return values

    def bytes_from_first(self, content: bytes) -> bytes:
        """The bytes that worker 0 has, of any length."""
        if self._group is None:
            return content
        length = int(self.from_first(torch.tensor([len(content)], dtype=torch.int64)))
        if self.rank != 0:
            content = bytes(length)
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8) if length else torch.empty(0)
        return bytes(self.from_first(values).numpy().data) if length else b""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sums over all workers."""
        if self._group is not None:
            torch.distributed.all_reduce(values, group=self._group)
        return values

    def require_equal(self, digest: bytes, what: str) -> None:
        """Raises RuntimeError, on every worker, unless all workers have the digest of worker 0."""
        if self._group is None:
            return
        different = torch.tensor([float(self.bytes_from_first(digest) != digest)])
        if self.sum(different).item():
            raise RuntimeError(f"{int(different.item())} of {self.world_size} workers differ from worker 0 in {what}")
