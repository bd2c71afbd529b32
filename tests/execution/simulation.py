"""A cluster that exists on paper: carries out the scheduler's orders in simulated time, and checks them on the way."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.execution.orders import (
    Action,
    Assign,
    AvoidNode,
    Commit,
    Fail,
    Item,
    Key,
    Node,
    SetAside,
    StartWorker,
    StopWorker,
    Withdraw,
)
from benchmarks.execution.scheduler import Scheduler

NEVER = float("inf")


@dataclass
class _Process:
    key: Key
    nodes: tuple[str, ...]
    queue: list[Item] = field(default_factory=list)
    loaded: bool = False
    busy: bool = False


@dataclass
class Cluster:
    """Plays a scheduler to its end.

    Attributes:
        seconds: duration of an item on a node; `NEVER` hangs.
        load_seconds: of a worker of a key on a node.
        trouble: what happens to an item instead of a result: "death", "fault", "memory", or "".
        load_trouble: the same for loading: "death", "error", or "".
    """

    nodes: list[Node]
    seconds: Callable[[Item, str], float] = lambda item, node: 1.0
    load_seconds: Callable[[Key, str], float] = lambda key, node: 0.0
    trouble: Callable[[Item, str], str] = lambda item, node: ""
    load_trouble: Callable[[Key, str], str] = lambda key, node: ""
    now: float = 0.0
    ended: dict[Item, Action] = field(default_factory=dict)
    ended_at: dict[Item, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    started_workers: Counter[Any] = field(default_factory=Counter)
    avoided: list[str] = field(default_factory=list)
    assigned: dict[Item, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.nodes, self.now)
        self.processes: dict[int, _Process] = {}
        self._events: list[tuple[float, int, Callable[[], list[Action]]]] = []
        self._order = itertools.count()

    def at(self, when: float, event: Callable[[], list[Action]]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def submit(self, items: Iterable[Item]) -> None:
        self.carry_out(self.scheduler.submit(items, self.now))

    def lose(self, node: str, when: float) -> None:
        def event() -> list[Action]:
            for number in [n for n, one in self.processes.items() if node in one.nodes]:
                del self.processes[number]
            return self.scheduler.node_lost(node, f"node {node} is gone", self.now)

        self.at(when, event)

    def play(self, until: float = 1e9, tick: float = 1.0) -> None:
        """Until nothing is outstanding."""
        due = self.now + tick
        while self.scheduler.outstanding and self.now < until:
            if self._events and self._events[0][0] <= due:
                self.now, _, event = heapq.heappop(self._events)
                self.carry_out(event())
            else:
                self.now, due = due, due + tick
                self.carry_out(self.scheduler.tick(self.now))
        assert not self.scheduler.outstanding, f"{self.scheduler.outstanding} items have come to no end"

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartWorker(number, key, nodes):
                    self.processes[number] = _Process(key, nodes)
                    self.started_workers[key.name] += 1
                    self._check_room()
                    self.at(self.now, lambda number=number: self.scheduler.loading(number, self.now))
                    self.at(self.now + self.load_seconds(key, nodes[0]), lambda number=number: self._loaded(number))
                case StopWorker(number):
                    self.processes.pop(number, None)
                case Assign(number, item, _):
                    process = self.processes[number]
                    assert process.loaded, "an item for a worker that is not ready"
                    assert item.key.name == process.key.name, "an item for a worker of another kind"
                    assert item not in self.ended, "an item that has come to its end"
                    assert item not in process.queue, "an item twice for one worker"
                    process.queue.append(item)
                    self.assigned[item].append(process.nodes[0])
                    self._begin(number)
                case Withdraw(number, item):
                    process = self.processes[number]
                    if process.queue[0] is not item:
                        process.queue.remove(item)
                        self.at(self.now, lambda n=number, i=item: self.scheduler.withdrawn(n, i, self.now))
                case Commit(_, item) | Fail(item, _) | SetAside(item, _):
                    assert item not in self.ended, "an item came to two ends"
                    self.ended[item], self.ended_at[item] = action, self.now
                case AvoidNode(node, _):
                    self.avoided.append(node)

    def _loaded(self, number: int) -> list[Action]:
        process = self.processes.get(number)
        if process is None:
            return []
        trouble = self.load_trouble(process.key, process.nodes[0])
        if trouble:
            del self.processes[number]
            event = self.scheduler.load_failed if trouble == "error" else self.scheduler.fault
            return event(number, f"{trouble} while loading", self.now)
        process.loaded = True
        return self.scheduler.loaded(number, self.now)

    def _begin(self, number: int) -> None:
        process = self.processes[number]
        if process.queue and not process.busy:
            process.busy = True
            item, seconds = process.queue[0], self.seconds(process.queue[0], process.nodes[0])
            if seconds < NEVER:
                self.at(self.now + seconds, lambda: self._result(number, process, item, seconds))

    def _result(self, number: int, process: _Process, item: Item, seconds: float) -> list[Action]:
        if self.processes.get(number) is not process:
            return []
        self.busy_seconds += seconds
        process.busy = False
        process.queue.remove(item)
        trouble = self.trouble(item, process.nodes[0])
        if trouble == "memory" and not process.key.alone:
            return self.scheduler.out_of_memory(number, item, "too little", self.now)
        if trouble in ("death", "fault"):
            del self.processes[number]
            return self.scheduler.fault(number, trouble, self.now, item, died=trouble == "death")
        self._begin(number)
        return self.scheduler.finished(number, item, self.now)

    def _check_room(self) -> None:
        taken: Counter[str] = Counter()
        devices: Counter[str] = Counter()
        for one in self.processes.values():
            for node in one.nodes:
                taken[node] += one.key.need.cpus
                devices[node] += one.key.need.gpus
        for node in self.nodes:
            assert taken[node.name] <= node.cpus, f"{taken[node.name]} of {node.cpus} processors"
            assert devices[node.name] <= node.gpus + 1e-9, f"{devices[node.name]} of {node.gpus} GPUs"
