"""The words of the scheduler: what is computed, on what, and what it may order."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Need:
    """What a worker occupies; `workers` > 1: as many times, on any nodes."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class Key:
    """What the workers of one kind have in common.

    Attributes:
        name: whatever tells the kinds apart.
        need: the resources of one worker.
        first: goes before others (trainings: much waits for them).
        resumes: its work goes on where it was cut off, so a death is never held against the method.
        load_limit: seconds within which a worker is ready once its process is up.
        alone: a fresh process with a whole GPU, for items that ran out of memory.
        ahead: items that a worker is given while it computes one.
    """

    name: Hashable
    need: Need = Need()
    first: bool = False
    resumes: bool = False
    load_limit: float = float("inf")
    alone: bool = False
    ahead: int = 1

    def roomier(self) -> Key:
        """The key for an item that ran out of memory."""
        return replace(self, alone=True, need=replace(self.need, gpus=float(-(-self.need.gpus // 1))))


@dataclass(frozen=True, eq=False)
class Item:
    """One piece of work; every item comes to exactly one of `Commit`, `Fail`, `SetAside`.

    Attributes:
        work: what it is, for who carries it out.
        length: expected duration in any unit, the same within a key.
        limit: seconds from its start after which its process is ended and it has failed.
        place: number that says which node reads it.
    """

    key: Key
    work: object = None
    length: float = 1.0
    limit: float = float("inf")
    place: int = 0


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class StartWorker:
    worker: int
    key: Key
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class StopWorker:
    worker: int


@dataclass(frozen=True)
class Assign:
    worker: int
    item: Item
    last_try: bool  # out of memory is a failure now


@dataclass(frozen=True)
class Withdraw:
    """Take back an item that the worker has not begun, if that is still so; answered by `withdrawn` or `finished`."""

    worker: int
    item: Item


@dataclass(frozen=True)
class Commit:
    """The result that this worker gave is the one that counts."""

    worker: int
    item: Item


@dataclass(frozen=True)
class Fail:
    """The method failed."""

    item: Item
    reason: str


@dataclass(frozen=True)
class SetAside:
    """The machine failed; the item has no result."""

    item: Item
    reason: str


@dataclass(frozen=True)
class AvoidNode:
    node: str
    reason: str


WorkerOrder = StartWorker | StopWorker | Assign | Withdraw
Action = WorkerOrder | Commit | Fail | SetAside | AvoidNode
