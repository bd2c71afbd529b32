"""In which order a run does what the scheduler says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.common.errors import MachineFault
from benchmarks.data.dataset import Case
from benchmarks.execution import course as course_module
from benchmarks.execution.course import Course
from benchmarks.execution.crew import CaseWork, Crew
from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Assign, Commit, Item, Key, Need, Node
from benchmarks.execution.plan import Folders
from benchmarks.execution.way import Way
from benchmarks.execution.worker import Order


class _Machines:
    def now(self) -> list[Node]:
        return [Node("here", 2)]


class _Crew:
    """Writes down what it is asked for."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def carry_out(self, order: Assign) -> None:
        self.log.append(f"worker {order.worker} begins {order.item.place}")

    def result(self, worker: int, item: Item) -> str:
        return f"of worker {worker}"


def test_no_worker_waits_while_the_records_of_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def write(course: Course, item: Item, result: Any) -> None:
        log.append(f"{item.place} {result} is written")

    monkeypatch.setattr(Course, "_take", write)
    course = Course([], Folders(tmp_path), Nobody(), _Machines(), fresh=False)  # type: ignore[arg-type]
    course.crew = _Crew(log)  # type: ignore[assignment]
    items = [Item(Key("kind", Need(1)), None, place=place) for place in range(4)]
    course._carry_out(
        [Commit(1, items[0]), Assign(1, items[2], False), Commit(2, items[1]), Assign(2, items[3], False)]
    )
    assert log == [
        "worker 1 begins 2",
        "worker 2 begins 3",
        "0 of worker 1 is written",
        "1 of worker 2 is written",
    ]


def test_a_newer_training_that_waits_for_its_storage_is_left_to_a_training_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose faults are tried again; the driver, which only plans, does not end by it."""

    def away(job: Any, folder: Path) -> dict[str, Any]:
        raise MachineFault("storage s3://states: OSError: NETWORK_CONNECTION")

    monkeypatch.setattr(course_module, "run_job", away)
    assert course_module.kept_training(None, tmp_path) is None  # type: ignore[arg-type]
    assert not caplog.text
    (tmp_path / "training.json").write_text("{}")
    assert course_module.kept_training(None, tmp_path) is None  # type: ignore[arg-type]
    assert "NETWORK_CONNECTION" in caplog.text


def test_a_case_that_was_not_run_is_not_among_those_that_are_kept(tmp_path: Path) -> None:
    """Of four cases one is written, one not run, two are still to come when Ctrl-C ends the run."""
    cases = {name: Case("small", name, Path("scan.nii.gz"), Path("label.nii.gz")) for name in "abcd"}
    unit: Any = SimpleNamespace(cases=list(cases.values()), title="m · small")
    course = Course([], Folders(tmp_path), Nobody(), _Machines(), fresh=False)  # type: ignore[arg-type]
    course.records = SimpleNamespace()  # type: ignore[assignment]
    way = Way(0, unit, Key("kind", Need(1)), None, missing=dict(list(cases.items())[1:]))
    course.ways = [way]
    course._leave_out(way, [cases["b"]], "the disk is full")
    assert course._kept().startswith("interrupted: 1 of 4 cases are finished and kept in ")


@pytest.mark.parametrize(
    ("resumes", "told"),
    [(True, ("fault", True)), (False, ("out_of_memory", "Ray ended the process"))],
    ids=["a training goes on from its state", "a case is tried again with more room"],
)
def test_a_machine_that_is_full_is_not_held_against_a_training(resumes: bool, told: tuple[str, Any]) -> None:
    ray = pytest.importorskip("ray")

    class Scheduler:
        def fault(self, worker: int, reason: str, now: float, item: Item, died: bool) -> tuple[str, Any]:
            return "fault", died

        def out_of_memory(self, worker: int, item: Item, reason: str, now: float) -> tuple[str, Any]:
            return "out_of_memory", reason

    crew = Crew.__new__(Crew)
    crew._scheduler = Scheduler()  # type: ignore[assignment]
    item = Item(Key("kind", Need(1), resumes=resumes), None, place=0)
    assert crew._tell(1, item, ray.exceptions.OutOfMemoryError("full")) == told


class _Call:
    """A method of an actor: every call has an answer of its own, and is written down."""

    def __init__(self, orders: list[Order]) -> None:
        self.orders = orders

    def remote(self, order: Order) -> object:
        self.orders.append(order)
        return object()


class _Worker:
    def __init__(self, orders: list[Order]) -> None:
        self.evaluate = _Call(orders)


@pytest.mark.parametrize("faster", [1, 2], ids=["the first", "the second"])
def test_the_masks_of_a_case_that_is_computed_twice_are_those_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: int
) -> None:
    """The slower one is ended while it writes: what it has left is not taken for the other's."""
    orders: list[Order] = []
    crew = Crew(_Scheduler(), _Machines(), {})  # type: ignore[arg-type]
    crew._actors = {1: _Worker(orders), 2: _Worker(orders)}
    crew._nodes = {1: ("here",), 2: ("here",)}
    monkeypatch.setattr("ray.kill", lambda actor: None)
    case = Case("small", "one", Path("scan.nii.gz"), Path("label.nii.gz"))
    masks = tmp_path / "unit"
    item = Item(Key("kind", Need(1)), CaseWork(0, case, False, lambda: None, Path("log"), masks))
    for worker in (1, 2):
        crew.carry_out(Assign(worker, item, False))
    assert orders[0].masks is None
    assert orders[1].masks is not None
    places = {1: masks / "one", 2: orders[1].masks / "one"}
    names = {1: ["step.1", "step.2"], 2: ["step.1"]}
    for worker, place in places.items():
        place.mkdir(parents=True)
        for name in names[worker]:
            (place / name).write_text(str(worker))
    crew._tell(faster, item, "rows")
    crew._stop(3 - faster)
    assert crew.result(faster, item) == "rows"
    assert {path.name: path.read_text() for path in (masks / "one").iterdir()} == dict.fromkeys(
        names[faster], str(faster)
    )
    assert [path.name for path in masks.iterdir()] == ["one"]


class _Scheduler:
    def finished(self, worker: int, item: Item, now: float) -> list[Commit]:
        return [Commit(worker, item)]
