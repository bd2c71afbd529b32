"""Nodes that join during a run are looked at before they are given work, and the others do not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.execution.course import Course
from benchmarks.execution.newcomers import Newcomers
from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Action, Item, Key, Need, Node, StartWorker
from benchmarks.execution.plan import Folders
from benchmarks.execution.preflight import Host
from tests.waiting import wait_for


class _Machines:
    """Nodes that the test lets come and go."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    @property
    def nodes(self) -> dict[str, str]:
        return {name: f"id of {name}" for name in self.names}

    def now(self) -> list[Node]:
        return [Node(name, 1) for name in self.names]


class _Look:
    """What is found on a node follows from its host's name; an answer comes when it is let go."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []
        self.go = threading.Event()

    def __call__(self, nodes: Mapping[str, str]) -> list[Host]:
        self.asked.append(nodes)
        self.go.wait(30)
        if any(name.startswith("broken") for name in nodes):
            raise OSError("the disk is full")
        return [Host(name, problems=("another commit",) if name.startswith("old") else ()) for name in nodes]


def nodes_with_work(course: Course, items: list[Item]) -> set[str]:
    """Where the scheduler starts workers for these items."""
    actions: list[Action] = course.scheduler.set_nodes(course._nodes(), 0.0)
    actions += course.scheduler.submit(items, 0.0)
    return {node for action in actions if isinstance(action, StartWorker) for node in action.nodes}


def items() -> list[Item]:
    """More than any node holds at once."""
    return [Item(Key(f"kind {number}", Need(1)), None) for number in range(9)]


def test_a_node_that_was_left_out_is_given_no_work_when_it_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its Ray has another id, and the node therefore another name."""
    machines, look = _Machines("good (1)", "old (1)"), _Look()
    newcomers = Newcomers(machines.nodes, look)
    course = Course([], Folders(tmp_path), Nobody(), machines, False, newcomers=newcomers)  # type: ignore[arg-type]
    course.leave_out({"old (1)": "another commit"})
    machines.names = ["good (1)", "old (2)", "good (3)"]
    assert nodes_with_work(course, items()) == {"good (1)"}
    assert look.asked == [{"old (2)": "id of old (2)", "good (3)": "id of good (3)"}]
    look.go.set()
    wait_for(lambda: "good (3)" in {node.name for node in course._nodes()}, 30)
    assert nodes_with_work(course, []) == {"good (3)"}
    assert len(look.asked) == 1
    assert "old (2) has joined and is left alone: another commit" in caplog.text


def test_who_joins_while_the_first_are_looked_at_is_looked_at_too(tmp_path: Path) -> None:
    machines, look = _Machines("good (1)"), _Look()
    newcomers = Newcomers(machines.nodes, look)
    machines.names.append("old (1)")
    course = Course([], Folders(tmp_path), Nobody(), machines, False, newcomers=newcomers)  # type: ignore[arg-type]
    look.go.set()
    assert nodes_with_work(course, items()) == {"good (1)"}
    assert look.asked == [{"old (1)": "id of old (1)"}]


def test_a_look_that_fails_lets_nobody_in_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    machines, look = _Machines("broken (1)"), _Look()
    newcomers = Newcomers([], look)
    look.go.set()

    def told() -> bool:
        assert newcomers.admitted(machines.now(), machines.nodes) == []
        return "broken (1) has joined and is left alone: cannot be looked at: OSError: the disk is full" in caplog.text

    wait_for(told, 30)
