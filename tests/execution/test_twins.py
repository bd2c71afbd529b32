"""Two units of one digest, which differ in the interpreter that runs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from benchmarks.execution.course import Course
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.environments import Environments
from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Item, Node
from benchmarks.execution.plan import plan
from benchmarks.execution.suite import parse_suite
from benchmarks.execution.unit import Unit

SUITE = """
name: twins
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [{name: mock-network, environment: {python: /nowhere/python}}, {name: mock-network, label: here}]
protocols: [none]
budget: {steps: 4}
"""


class _Stages(Nobody):
    """Remembers how far every unit has come, by its title in the suite."""

    def __init__(self) -> None:
        self.stages: dict[str, str] = {}

    def stage(self, unit: Unit, stage: str) -> None:
        self.stages[unit.entry.title] = stage


def test_a_unit_is_not_held_back_by_the_environment_of_its_twin(tmp_path: Path) -> None:
    """Interpreters are no part of a digest; what is trained here is done, whatever became of the other."""
    suite, folders, observer = parse_suite(SUITE, "test"), Folders(tmp_path), _Stages()
    away, here = plan(suite, [resolve_dataset(suite.datasets[0], suite.seed, folders)], folders)
    assert away.digest == here.digest
    assert away.environment is not None
    machines = SimpleNamespace(now=lambda: [Node("here", 2)])
    course = Course([away, here], folders, observer, machines, fresh=False)  # type: ignore[arg-type]
    course.use(Environments(problems={("mock-network", away.environment): "there is no such interpreter"}))
    submitted: list[Item] = []
    course._submit = submitted.extend  # type: ignore[method-assign]
    for way in course.ways:
        course._begin(way)
    (training,) = submitted
    course._take(training, {"weights": "of the training"})
    assert observer.stages == {"mock-network": "not run", "here": "done"}
