"""Every method that the bench trains beside itself untrained: the plan, and identities that do not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Dataset
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.suite import parse_suite

SUITE = """
name: small
seed: 7
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-noop, mock-network, ball, {name: mock-network, label: slow, config: {learning_rate: 0.001}}]
protocols: [none, centre-click]
budget: {steps: 4}
workers: 2
train_timeout_minutes: 7
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, folders)


def units_of(text: str, dataset: Dataset, out: Path) -> list[Unit]:
    return plan(parse_suite(text, "test"), [dataset], Folders(out))


def test_a_suite_shows_what_the_bench_trains_untrained_as_well(dataset: Dataset, tmp_path: Path) -> None:
    plain = units_of(SUITE, dataset, tmp_path)
    units = units_of(SUITE + "untrained: true\n", dataset, tmp_path)
    assert [unit.entry.title for unit in units] == [
        "mock-noop",
        "mock-network",
        "mock-network (untrained)",
        "ball",
        "slow",
        "slow (untrained)",
    ]
    untrained = [unit for unit in units if unit.description()["untrained"]]
    assert [unit.entry.title for unit in untrained] == ["mock-network (untrained)", "slow (untrained)"]
    assert all(unit.job is not None and unit.job.untrained and unit.job.workers == 1 for unit in untrained)
    assert [unit.digest for unit in units if unit not in untrained] == [unit.digest for unit in plain]
    assert len({unit.digest for unit in units}) == len(units)
    assert {unit.job.timeout_minutes for unit in units if unit.job} == {7.0}


def test_one_entry_can_be_untrained(dataset: Dataset, tmp_path: Path) -> None:
    (unit,) = units_of(SUITE.replace("[mock-noop,", "[{name: mock-network, untrained: true}] #"), dataset, tmp_path)
    assert unit.entry.title == "mock-network (untrained)"
    assert unit.job is not None
    assert unit.job.untrained


@pytest.mark.parametrize("name", ["mock-noop", "ball"])
def test_what_the_bench_does_not_train_has_no_untrained_state(name: str, dataset: Dataset, tmp_path: Path) -> None:
    text = SUITE.replace("[mock-noop,", f"[{{name: {name}, untrained: true}}] #")
    with pytest.raises(UserError, match=rf"'{name} \(untrained\)': `untrained` is for methods that the bench trains"):
        units_of(text, dataset, tmp_path)


def test_the_flag_says_what_the_suite_can_say() -> None:
    assert parse_suite(SUITE, "test").with_untrained() == parse_suite(SUITE + "untrained: true\n", "test")
