"""Faults of the machine on a real Ray: never a method's result, and never the end of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Dataset
from benchmarks.execution import course, crew, scheduler
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.observer import Nobody
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.pool import RunOutcome, run, train_units
from benchmarks.execution.room import check_room
from benchmarks.execution.suite import parse_suite
from benchmarks.execution.worker import Loading, actor_class, outcome_of
from benchmarks.results.records import RecordStore

pytestmark = pytest.mark.ray

SUITE = """
name: faulty
seed: 7
datasets: [{name: kits21, source: phantom, cases: 9}]
methods: [METHODS]
protocols: [none]
budget: {steps: 4}
"""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "RETRY_PAUSES", (0.1, 0.1, 0.1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE.replace("METHODS", "mock-noop"), "test").datasets[0], 7, folders)


Play = Callable[..., tuple[RunOutcome, pd.DataFrame]]


@pytest.fixture
def play(local_ray: None, dataset: Dataset, tmp_path: Path) -> Play:
    """Run methods; what came of it, and the rows of the suite."""

    def one(methods: str, data: Dataset = dataset, **options: Any) -> tuple[RunOutcome, pd.DataFrame]:
        outcome = run(units_of(methods, data, tmp_path), Folders(tmp_path), Nobody(), **options)
        return outcome, RecordStore(Folders(tmp_path).records).read_suite("faulty")[0]

    return one


def units_of(methods: str, dataset: Dataset, out: Path, change: tuple[str, str] = ("", "")) -> list[Unit]:
    return plan(parse_suite(SUITE.replace("METHODS", methods).replace(*change), "test"), [dataset], Folders(out))


def test_a_process_that_dies_once_costs_its_case_nothing(play: Play, dataset: Dataset, tmp_path: Path) -> None:
    outcome, rows = play(f"{{name: mock-die-once, config: {{folder: '{tmp_path}'}}}}")
    assert outcome == RunOutcome(len(dataset.splits[0].test))
    assert set(rows["status"]) == {"ok"}
    assert (tmp_path / "asked").exists()


def test_a_process_that_has_lost_its_gpu_costs_no_case_anything(play: Play, dataset: Dataset, tmp_path: Path) -> None:
    """Its first case fails in CUDA, and so would all that came after it there."""
    outcome, rows = play(f"{{name: mock-spoil-once, config: {{folder: '{tmp_path}'}}}}")
    assert outcome == RunOutcome(len(dataset.splits[0].test))
    assert set(rows["status"]) == {"ok"}
    assert (tmp_path / "asked").exists()


def test_a_process_for_a_node_that_is_gone_is_lost_at_once(local_ray: None) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nowhere = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(crew.NOBODY, soft=False)}
    actor = actor_class().options(**nowhere).remote(Loading(Path("log")))
    task = ray.remote(max_retries=0)(lambda: 1).options(**nowhere).remote()
    for reference in (actor.ready.remote(), task):
        ready, _ = ray.wait([reference], timeout=60)
        assert ready
        lost = outcome_of(reference)
        assert isinstance(lost, ray.exceptions.RayError)
        assert not isinstance(lost, ray.exceptions.RayTaskError)


def test_a_killed_training_is_tried_again_and_then_not_run(play: Play, dataset: Dataset, tmp_path: Path) -> None:
    cases = dataset.splits[0].test
    outcome, rows = play("mock-dying-fit, mock-noop")
    assert outcome.computed == len(cases)
    assert set(rows["method"]) == {"mock-noop"}
    assert [one.case for one in outcome.not_run] == list(dict.fromkeys(one.case for one in outcome.not_run))
    assert {one.case for one in outcome.not_run} == set(cases)
    assert outcome.not_run[0].reason.startswith("not trained: the process died on ")
    assert outcome.not_run[0].reason.endswith("; tried 4 times")
    outcome, rows = play(f"{{name: mock-dying-fit, config: {{folder: '{tmp_path}'}}}}, mock-noop")
    assert outcome == RunOutcome(len(cases))
    assert set(rows["status"]) == {"ok"}


def test_a_training_that_hangs_is_ended_and_is_the_methods_failure(
    play: Play, local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    entry = f"{{name: mock-learner, config: {{marker: '{tmp_path / 'hangs'}', hang_in_loss: 2}}}}"
    limit = ("name: faulty", "name: faulty\ntrain_timeout_minutes: 0.2")
    units = units_of(f"{entry}, mock-noop", dataset, tmp_path, limit)
    outcome = run(units, Folders(tmp_path), Nobody())
    assert outcome == RunOutcome(2 * len(dataset.splits[0].test))
    rows = RecordStore(Folders(tmp_path).records).read_suite("faulty")[0]
    learner = rows[rows["method"] == "mock-learner"]
    assert set(learner["status"]) == {"failed"}
    assert learner["reason"].str.contains("no sign of life within 0.2 minutes; the process was ended").all()
    assert set(rows[rows["method"] == "mock-noop"]["status"]) == {"ok"}


def test_a_missing_folder_is_not_run_and_the_next_run_takes_it_up(play: Play, dataset: Dataset, tmp_path: Path) -> None:
    case = dataset.split_cases("test")[0]
    hidden = case.image.with_suffix(".hidden")
    units = units_of("mock-noop", dataset, tmp_path)
    case.image.rename(hidden)
    try:
        seen: list[str] = []
        outcome = run(units, Folders(tmp_path), Nobody(), on_unit=lambda unit, rows, training: seen.append(unit.title))
    finally:
        hidden.rename(case.image)
    assert [(one.unit, one.case) for one in outcome.not_run] == [(units[0].title, case.case_id)]
    assert "is not there on" in outcome.not_run[0].reason
    assert outcome.computed == len(units[0].cases) - 1
    assert seen == []  # a unit without all its rows is not at its end
    outcome, rows = play("mock-noop")
    assert outcome == RunOutcome(1)
    assert len(rows) == len(units[0].cases)


def test_a_weights_file_that_is_gone_is_not_the_methods_failure(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"MOCK")
    entry = f"{{name: mock-official, config: {{checkpoint: '{weights}'}}}}, mock-noop"
    units = units_of(entry, dataset, tmp_path, ("protocols: [none]", "protocols: [centre-click]"))
    weights.unlink()
    cases = dataset.splits[0].test
    outcome = run(units, Folders(tmp_path), Nobody())
    assert outcome.computed == len(cases)
    assert {one.case for one in outcome.not_run} == set(cases)
    assert all(f"the weights file {weights} is not there" in one.reason for one in outcome.not_run)
    rows = RecordStore(Folders(tmp_path).records).read_suite("faulty")[0]
    assert set(rows["method"]) == {"mock-noop"}
    weights.write_bytes(b"MOCK")
    assert run(units, Folders(tmp_path), Nobody()) == RunOutcome(len(cases))


def test_masks_that_cannot_be_written_are_not_the_methods_failure(play: Play, dataset: Dataset, tmp_path: Path) -> None:
    (unit,) = units_of("mock-noop", dataset, tmp_path)
    assert unit.evaluation.predictions is not None
    unit.evaluation.predictions.parent.mkdir(parents=True)
    unit.evaluation.predictions.write_text("a file where the folder should be")
    outcome, rows = play("mock-noop")
    assert rows.empty
    assert len(outcome.not_run) == len(unit.cases)
    assert all("NotADirectoryError" in one.reason or "FileExistsError" in one.reason for one in outcome.not_run)


def test_records_that_cannot_be_written_end_the_run_with_the_rest_not_run(
    play: Play, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "write_case", full)
        outcome, rows = play("mock-noop")
    assert outcome.computed == 0
    assert len(outcome.not_run) == len(dataset.splits[0].test)
    assert all("No space left on device" in one.reason for one in outcome.not_run)
    assert rows.empty
    outcome, rows = play("mock-noop")
    assert outcome == RunOutcome(len(dataset.splits[0].test))


def test_too_little_memory_is_tried_again_and_then_a_failure(play: Play, tmp_path: Path) -> None:
    outcome, rows = play(f"mock-memory, {{name: mock-memory-once, config: {{folder: '{tmp_path}'}}}}")
    assert outcome.not_run == ()
    by_method = rows.groupby("method")["status"].unique().map(set)
    assert by_method["mock-memory-once"] == {"ok"}
    assert by_method["mock-memory"] == {"failed"}
    assert set(rows[rows["method"] == "mock-memory"]["reason"]) == {"MemoryError: too little"}


def test_a_method_that_cannot_be_loaded_fails_whether_it_raises_dies_or_hangs(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "LOAD_LIMIT_SECONDS", 9.0)
    outcome, rows = play("mock-load-crash, mock-load-die, mock-load-sleep, mock-noop")
    assert outcome.not_run == ()
    reasons = rows.groupby("method")["reason"].first()
    assert reasons["mock-noop"] == ""
    assert reasons["mock-load-crash"] == "RuntimeError: cannot be loaded: RuntimeError: no weights in the file"
    assert "the process died" in reasons["mock-load-die"]
    assert "while it was loaded; it ended 2 processes" in reasons["mock-load-die"]
    assert reasons["mock-load-sleep"] == "RuntimeError: not ready within 0.15 minutes; the process was ended"


@pytest.mark.parametrize("budget", ["{steps: 1, cpus: 100000}", "{steps: 1, gpus: 64}", "{steps: 1, gpus: 0.5}"])
def test_what_the_cluster_cannot_hold_is_refused_before_anything_is_touched(
    local_ray: None, dataset: Dataset, tmp_path: Path, budget: str
) -> None:
    import ray

    if "0.5" in budget and ray.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU")
    units = units_of("mock-noop", dataset, tmp_path, ("{steps: 4}", budget))
    with pytest.raises(UserError, match=r"'mock-noop · kits21' asks for .* CPU and .* GPU; the cluster has .*; lower "):
        run(units, Folders(tmp_path), Nobody(), fresh=True)
    assert not (tmp_path / "records").exists()


def test_a_thousand_million_workers_are_refused(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    units = units_of("mock-network", dataset, tmp_path, ("budget:", "workers: 1000000000\nbudget:"))
    with pytest.raises(UserError, match="asks for 1000000000 workers"):
        check_room(units)


def test_trainings_go_side_by_side_and_one_failure_costs_the_others_nothing(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    units = units_of("mock-bad-fit, mock-dying-fit, mock-network", dataset, tmp_path)
    outcome = train_units(units, Folders(tmp_path), Nobody())
    by_name = {unit.digest: unit.method.name for unit in units}
    assert {by_name[digest] for digest in outcome.figures} == {"mock-network"}
    assert {by_name[digest]: why for digest, why in outcome.failed.items()} == {
        "mock-bad-fit": "ValueError: the tool ended with exit code 9"
    }
    assert [by_name[digest] for digest in outcome.not_run] == ["mock-dying-fit"]
    assert not (tmp_path / "records").exists()
