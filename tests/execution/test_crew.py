"""What the crew tells the scheduler of what Ray reports. Without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.common.errors import MachineFault, ProcessSpoilt
from benchmarks.contestants import Budget, Target
from benchmarks.execution import crew
from benchmarks.execution.crew import Crew, TrainingWork
from benchmarks.execution.orders import (
    Action,
    Assign,
    AvoidNode,
    Fail,
    Item,
    Key,
    Need,
    Node,
    SetAside,
    StartWorker,
    StopWorker,
)
from benchmarks.execution.scheduler import MAX_RETRIES, Scheduler
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.training_watch import TrainingProcessDied

SECONDS = 60.0  # between two faults: each of them counts


def ray_id(name: str) -> str:
    """Ray takes nothing but 28 bytes in hexadecimal."""
    return name.encode().hex().ljust(56, "0")


class Play:
    """A crew whose processes exist on paper only; the time is set by hand."""

    def __init__(self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.scheduler = Scheduler(nodes)
        machines: Any = SimpleNamespace(nodes={node.name: ray_id(node.name) for node in nodes}, look=lambda: None)
        self.crew = Crew(self.scheduler, machines, {})
        self.workers: dict[Item, int] = {}
        self.orders: list[Action] = []

    def submit(self, *items: Item) -> None:
        self.follow(self.scheduler.submit(items, self.now))

    def follow(self, orders: list[Action]) -> None:
        """Every process is ready as soon as it is started."""
        self.orders += orders
        for order in orders:
            if isinstance(order, StartWorker):
                self.follow(self.scheduler.loaded(order.worker, self.now))
            elif isinstance(order, Assign):
                self.workers[order.item] = order.worker

    def report(self, item: Item, outcome: Exception) -> None:
        """What Ray has for an item, and then some time."""
        self.follow(self.crew._tell(self.workers.pop(item), item, outcome))
        self.now += SECONDS
        self.follow(self.scheduler.tick(self.now))

    def of(self, kind: type) -> list[Any]:
        return [order for order in self.orders if isinstance(order, kind)]


def training(name: str) -> Item:
    return Item(Key(("training", name), Need(1, workers=2), first=True, resumes=True), name)


def test_a_group_training_whose_processes_die_costs_the_others_on_its_only_node_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that dies in a group ends as one does that trains alone: it is tried four times, and then not run."""
    play = Play([Node("n", 4)], monkeypatch)
    crashing, healthy = training("crashing"), training("healthy")
    play.submit(crashing, healthy)
    first = play.workers[healthy]
    for _ in range(MAX_RETRIES + 1):
        play.report(crashing, TrainingProcessDied("WorkerGroupError: the actor died"))
    assert play.of(AvoidNode) == []
    assert play.of(SetAside) == [SetAside(crashing, f"WorkerGroupError: the actor died; tried {MAX_RETRIES + 1} times")]
    assert play.workers == {healthy: first}
    assert play.scheduler.outstanding == 1


def test_a_case_that_costs_two_processes_their_gpu_is_the_methods_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that ends two. No other case and no node is blamed."""
    play = Play([Node("n", 2)], monkeypatch)
    key = Key("m", Need(1))
    bad, good = Item(key, "bad"), Item(key, "good")
    play.submit(bad, good)
    first = play.workers[bad]
    play.report(bad, ProcessSpoilt("CUDA error on n"))
    assert StopWorker(first) in play.orders
    assert play.of(Fail) == []
    play.report(bad, ProcessSpoilt("CUDA error on n"))
    assert play.of(Fail) == [Fail(bad, "CUDA error on n; it ended 2 processes")]
    assert play.of(AvoidNode) == []
    assert play.scheduler.outstanding == 1
    assert good in play.workers


def test_a_method_that_costs_two_processes_their_gpu_as_it_is_loaded_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler, clock = Scheduler([Node("n", 1)]), SimpleNamespace(now=0.0)
    told: list[Action] = []
    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: clock.now))
    machines: Any = SimpleNamespace(nodes={"n": ray_id("n")}, look=lambda: None)
    one = Crew(scheduler, machines, {})
    orders = scheduler.submit([Item(Key("m", Need(1)), "case")], 0.0)
    for _ in range(2):
        (start,) = (order for order in orders if isinstance(order, StartWorker))
        one._tell(start.worker, "where", "n")
        told += one._tell(start.worker, "ready", ProcessSpoilt("CUDA error on n"))
        clock.now += SECONDS
        orders = scheduler.tick(clock.now)
    (failed,) = (order for order in told if isinstance(order, Fail))
    assert failed.reason == "CUDA error on n while it was loaded; it ended 2 processes"


def test_a_fault_of_the_machine_is_held_against_the_node_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play([Node("n", 4)], monkeypatch)
    one = training("one")
    play.submit(one)
    for _ in range(3):
        play.report(one, MachineFault("the disk is full on n"))
    assert play.of(AvoidNode) == [AvoidNode("n", "the disk is full on n")]


def test_a_fault_of_a_group_on_two_nodes_is_held_against_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message may name either; a healthy training on the first one goes on."""
    play = Play([Node("n0", 2), Node("n1", 1)], monkeypatch)
    healthy = Item(Key(("training", "healthy"), Need(1), first=True, resumes=True), "healthy")
    group = training("group")
    play.submit(healthy)
    play.submit(group)
    first = play.workers[healthy]
    for _ in range(MAX_RETRIES + 1):
        play.report(group, MachineFault("the disk is full on n1"))
    assert play.of(AvoidNode) == []
    assert [one.item for one in play.of(SetAside)] == [group]
    assert play.workers == {healthy: first}


class Task:
    """In place of a task of Ray: notes what it is started with."""

    def options(self, **options: Any) -> Task:
        self.strategy = options["scheduling_strategy"]
        return self

    def remote(self, *arguments: Any) -> str:
        self.nodes = arguments[-1]
        return "reference"


def test_a_group_training_runs_on_the_nodes_that_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own process on the first of them. A node that was left out, the emptiest, has none."""
    play = Play([Node("n0", 1), Node("n1", 1), Node("n2", 64)], monkeypatch)
    task = Task()
    monkeypatch.setattr(crew, "training_task", lambda job: task)
    play.follow(play.scheduler.avoid("n2", "another commit", 0.0))
    job = TrainingJob("mock-learner", {}, Target("t", "", "", (1,)), (), Budget(steps=1), 1, workers=2)
    one = Item(training("one").key, TrainingWork(job, tmp_path / "one", tmp_path / "log", tmp_path / "cache", ""))
    play.submit(one)
    for order in [*play.of(StartWorker), *play.of(Assign)]:
        play.crew.carry_out(order)
    assert set(task.nodes) == {ray_id("n0"), ray_id("n1")}
    assert (task.strategy.node_id, task.strategy.soft) == (task.nodes[0], False)


def test_an_order_for_a_node_that_has_just_gone_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machines are looked at from a thread of their own, so one may be gone between an order and its start."""
    play = Play([Node("n0", 1)], monkeypatch)
    task = Task()
    monkeypatch.setattr(crew, "training_task", lambda job: task)
    job = TrainingJob("mock-learner", {}, Target("t", "", "", (1,)), (), Budget(steps=1), 1)
    key = Key(("training", "one"), Need(1), first=True, resumes=True)
    play.submit(Item(key, TrainingWork(job, tmp_path / "one", tmp_path / "log", tmp_path / "cache", "")))
    play.crew._machines.nodes.clear()
    for order in [*play.of(StartWorker), *play.of(Assign)]:
        play.crew.carry_out(order)
    assert task.nodes == (crew.NOBODY,)
