"""The road on Ray with a third party's methods: records, resume, failures of every kind, training, sweeps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.common.weight_file import weights_folder
from benchmarks.data.dataset import Case, Dataset
from benchmarks.execution.crew import Machines
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.observer import Nobody
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.pool import run, train_units
from benchmarks.execution.suite import Suite, parse_suite
from benchmarks.execution.training_job import checkpoint_folder, finished
from benchmarks.results.leaderboard import check_complete, leaderboard_of, notes_of
from benchmarks.results.records import RecordStore

pytestmark = pytest.mark.ray

SUITE = """
name: small
seed: 7
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-noop]
protocols: [none, {kind: iterative, rounds: 2}]
budget: {steps: 4}
"""


class Silent(Nobody):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.units: list[str] = []
        self.failures: list[tuple[str, str]] = []

    def stage(self, unit: Unit, stage: str) -> None:
        self.stages.append((unit.entry.title, stage))

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        assert finished_cases <= len(unit.cases)

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        self.failures.append((unit.entry.title, reason))

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        self.units.append(unit.entry.title)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, folders)


def units_of(suite: Suite, dataset: Dataset, out: Path) -> list[Unit]:
    return plan(suite, [dataset], Folders(out))


def run_methods(methods: str, dataset: Dataset, out: Path, **options: Any) -> tuple[list[Unit], int]:
    suite = parse_suite(SUITE.replace("[mock-noop]", methods), "test")
    units = units_of(suite, dataset, out)
    return units, run(units, Folders(out), Silent(), **options).computed


def records(out: Path) -> pd.DataFrame:
    return RecordStore(Folders(out).records).read_suite("small")[0]


def test_a_run_gives_every_row_and_a_second_one_computes_nothing(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    _, computed = run_methods("[mock-noop, mock-threshold]", dataset, tmp_path)
    cases = len(dataset.splits[0].test)
    assert computed == 2 * cases
    rows = records(tmp_path)
    assert len(rows) == 2 * cases * (1 + 2)
    assert set(rows["status"]) == {"ok"}
    assert rows["synthetic"].all()
    first = rows.sort_values(["method", "case", "protocol", "step"]).reset_index(drop=True)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.parquet")}
    _, computed = run_methods("[mock-noop, mock-threshold]", dataset, tmp_path)
    assert computed == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.parquet")}
    _, computed = run_methods("[mock-noop, mock-threshold]", dataset, tmp_path, fresh=True)
    assert computed == 2 * cases
    again = records(tmp_path).sort_values(["method", "case", "protocol", "step"]).reset_index(drop=True)
    same = ["method", "case", "protocol", "step", "dice", "hd95_mm", "voxels_prediction", "clicks"]
    pd.testing.assert_frame_equal(first[same], again[same])  # the same clicks, the same numbers


def test_a_run_with_nothing_due_needs_no_ray(
    local_ray: None, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def asked(*given: Any) -> None:
        raise Asked

    _, computed = run_methods("[mock-noop, mock-threshold]", dataset, tmp_path)
    assert computed > 0
    monkeypatch.setattr(Machines, "__init__", asked)
    ended: list[str] = []
    _, computed = run_methods(
        "[mock-noop, mock-threshold]", dataset, tmp_path, on_unit=lambda unit, *rest: ended.append(unit.title)
    )
    assert (computed, len(ended)) == (0, 2)
    for due in ({"fresh": True}, {}):
        if not due:
            next((tmp_path / "records").rglob("*.parquet")).unlink()
        with pytest.raises(Asked):
            run_methods("[mock-noop, mock-threshold]", dataset, tmp_path, **due)


def test_only_what_is_missing_is_computed(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    units, _ = run_methods("[mock-noop]", dataset, tmp_path)
    unit = units[0]
    rows, lost = records(tmp_path), unit.cases[0].case_id
    (unit.folder / "rows" / "unit.parquet").unlink()
    store = RecordStore(Folders(tmp_path).records)
    for case, of_case in rows[rows["case"] != lost].groupby("case"):
        store.write_case(
            unit.folder, str(case), [{str(k): v for k, v in row.items()} for row in of_case.to_dict("records")]
        )
    _, computed = run_methods("[mock-noop]", dataset, tmp_path)
    assert computed == 1
    order = ["case", "protocol", "step"]
    again = records(tmp_path).sort_values(order)[[*order, "dice"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, rows.sort_values(order)[[*order, "dice"]].reset_index(drop=True))


def test_two_entries_that_differ_in_their_label_only_are_computed_once(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    labels = "{name: mock-threshold, label: the same}, {name: mock-network, label: a}, {name: mock-network, label: b}"
    entries = f"[mock-threshold, {labels}]"
    units, computed = run_methods(entries, dataset, tmp_path)
    cases = len(dataset.splits[0].test)
    assert computed == 2 * cases
    assert units[0].digest == units[1].digest
    assert len({unit.key for unit in units}) == 4
    rows, described = RecordStore(Folders(tmp_path).records).read_suite("small")
    assert check_complete(rows, described).empty
    assert leaderboard_of(rows, described).groupby("method").size().to_dict() == {
        "mock-threshold": 2, "the same": 2, "a": 2, "b": 2,
    }  # fmt: skip
    by_label = rows.drop(columns="method").groupby(rows["method"])
    one, other = (by_label.get_group(name).reset_index(drop=True) for name in ("mock-threshold", "the same"))
    pd.testing.assert_frame_equal(one, other)
    assert run_methods(entries, dataset, tmp_path)[1] == 0


def test_a_damaged_record_is_computed_again(
    local_ray: None, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    units, _ = run_methods("[mock-threshold]", dataset, tmp_path)
    before = records(tmp_path)
    path = units[0].folder / "rows" / "unit.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="rows are missing"):
        check_complete(*RecordStore(Folders(tmp_path).records).read_suite("small"))
    _, computed = run_methods("[mock-threshold]", dataset, tmp_path)
    assert computed == len(dataset.splits[0].test)
    assert str(path) in caplog.text
    same = ["case", "protocol", "step", "dice", "hd95_mm", "clicks"]
    pd.testing.assert_frame_equal(before[same], records(tmp_path)[same])


def test_equal_trainings_at_once_are_one(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    """Two processes that train the same job: the second one waits, and takes what the first one has made."""
    import ray

    from benchmarks.execution.training import run_job

    (unit,) = units_of(parse_suite(SUITE.replace("[mock-noop]", "[mock-network]"), "test"), dataset, tmp_path)
    assert unit.job is not None
    folder = checkpoint_folder(Folders(tmp_path).checkpoints, unit.job)
    task = ray.remote(num_cpus=1)(run_job)
    figures = ray.get([task.remote(unit.job, folder, tmp_path / "log", tmp_path / "cache") for _ in range(2)])
    assert figures[0] == figures[1]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_metric_setting_scores_the_old_masks(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    run_methods("[mock-threshold]", dataset, tmp_path)
    before = records(tmp_path)
    text = SUITE.replace("[mock-noop]", "[mock-threshold]").replace("budget:", "tolerances_mm: [3]\nbudget:")
    watched = Silent()
    run(units_of(parse_suite(text, "test"), dataset, tmp_path), Folders(tmp_path), watched)
    assert [stage for _, stage in watched.stages] == ["scoring", "done"]
    after = records(tmp_path)
    assert "nsd@3mm" in after
    assert "nsd@1mm" not in after
    order = ["case", "protocol", "step"]
    same = [*order, "dice", "hd95_mm", "clicks", "carried", "seconds_open", "prompt_bank"]
    before, after = (frame.sort_values(order)[same].reset_index(drop=True) for frame in (before, after))
    pd.testing.assert_frame_equal(before, after)


def test_failures_become_rows_and_the_others_go_on(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    units, _ = run_methods("[mock-crash, mock-die, mock-bad-fit, mock-noop]", dataset, tmp_path)
    rows = records(tmp_path)
    assert len(rows) == 4 * len(dataset.splits[0].test) * 3
    by_method = rows.groupby("method")["status"].unique().map(set)
    assert by_method["mock-noop"] == {"ok"}
    assert by_method["mock-crash"] == by_method["mock-die"] == by_method["mock-bad-fit"] == {"failed"}
    reasons = rows.groupby("method")["reason"].first()
    assert reasons["mock-crash"] == "RuntimeError: this method always crashes"
    assert "the process died" in reasons["mock-die"]
    assert "it ended 2 processes" in reasons["mock-die"]
    assert "training failed: ValueError: the tool ended with exit code 9" in reasons["mock-bad-fit"]
    (log,) = Folders(tmp_path).logs.rglob("mock-bad-fit*.log")
    assert "Traceback" in log.read_text("utf-8"), "where a method failed is its author's first question"
    board = leaderboard_of(rows, [unit.description() for unit in units])
    assert board.set_index("method").loc["mock-die", "failed"].tolist() == [len(dataset.splits[0].test)] * 2
    assert any("exit code 9" in note for note in notes_of(rows, [unit.description() for unit in units]))
    _, computed = run_methods("[mock-crash]", dataset, tmp_path, retry_failed=True)
    assert computed == len(dataset.splits[0].test)


def test_masks_of_before_are_not_those_of_a_case_that_fails_now(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    """--fresh, in which the method fails, and then --retry-failed: it fails again."""
    units, _ = run_methods("[mock-crash]", dataset, tmp_path)
    assert set(records(tmp_path)["status"]) == {"failed"}
    folder = units[0].evaluation.predictions
    (other,), _ = run_methods("[mock-noop]", dataset, tmp_path / "other")
    assert folder is not None
    assert other.evaluation.predictions is not None
    shutil.copytree(other.evaluation.predictions, folder, dirs_exist_ok=True)  # as if it had not crashed once
    run_methods("[mock-crash]", dataset, tmp_path, fresh=True)
    run_methods("[mock-crash]", dataset, tmp_path, retry_failed=True)
    assert set(records(tmp_path)["status"]) == {"failed"}


def test_a_case_that_hangs_is_ended(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    text = SUITE.replace("[mock-noop]", "[mock-sleep]").replace("budget:", "case_timeout_minutes: 0.02\nbudget:")
    suite = parse_suite(text, "test")
    run(units_of(suite, dataset, tmp_path), Folders(tmp_path), Silent())
    rows = records(tmp_path)
    assert set(rows["status"]) == {"failed"}
    assert "no result within 0.02 minutes" in rows["reason"].iloc[0]


def test_training_is_cached_and_changes_the_weights(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:
    units, _ = run_methods("[mock-network]", dataset, tmp_path)
    job = units[0].job
    assert job is not None
    folder = checkpoint_folder(Folders(tmp_path).checkpoints, job)
    assert finished(folder)
    figures = train_units(units, Folders(tmp_path), Nobody()).figures[units[0].digest]  # finished: read, not computed
    assert figures["steps"] == 4
    assert figures["parameters"] == 2
    assert [point["step"] for point in figures["curve"]] == [1, 2, 3, 4]
    text = SUITE.replace("[mock-noop]", "[{name: mock-network, config: {learning_rate: 0.02}}]")
    other = units_of(parse_suite(text, "test"), dataset, tmp_path)[0]
    assert other.digest != units[0].digest


def keep_rows(unit: Unit, out: Path, cases: int, **changed: Any) -> None:
    """Leave a unit as a run does that is cut off after so many cases."""
    rows = records(out).assign(**changed)
    (unit.folder / "rows" / "unit.parquet").unlink()
    for case in [case.case_id for case in unit.cases][:cases]:
        of_case = [{str(k): v for k, v in row.items()} for row in rows[rows["case"] == case].to_dict("records")]
        RecordStore(Folders(out).records).write_case(unit.folder, case, of_case)


def train_another(unit: Unit, out: Path) -> Path:
    """What `train --fresh` leaves of an equal job in minutes: a checkpoint of the same name with other weights."""
    from safetensors.torch import load_file, save_file

    assert unit.job is not None
    folder = checkpoint_folder(Folders(out).checkpoints, unit.job)
    (weights,) = (folder / "checkpoint").glob("*.safetensors")
    save_file({name: -value for name, value in load_file(weights).items()}, weights)
    figures = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**figures, "weights": "another"}))
    return folder


def test_a_unit_whose_training_is_replaced_is_computed_by_the_new_one_alone(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    """Its rows are those of a unit that has never seen the old one."""
    (unit,), _ = run_methods("[mock-network]", dataset, tmp_path / "out")
    old = set(records(tmp_path / "out")["weights"])
    folder = train_another(unit, tmp_path / "out")
    (other,) = units_of(parse_suite(SUITE.replace("[mock-noop]", "[mock-network]"), "test"), dataset, tmp_path / "new")
    assert other.job is not None
    shutil.copytree(folder, checkpoint_folder(Folders(tmp_path / "new").checkpoints, other.job))
    cases = len(unit.cases)
    assert run_methods("[mock-network]", dataset, tmp_path / "new")[1] == cases
    order = ["case", "protocol", "step"]
    same = [*order, "dice", "voxels_prediction", "weights"]
    expected = records(tmp_path / "new").sort_values(order)[same].reset_index(drop=True)
    assert set(expected["weights"]) == {"another"}
    assert old.isdisjoint({"another", ""})
    keep_rows(unit, tmp_path / "out", cases // 2)
    assert run_methods("[mock-network]", dataset, tmp_path / "out")[1] == cases
    found = records(tmp_path / "out").sort_values(order)[same].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    assert run_methods("[mock-network]", dataset, tmp_path / "out")[1] == 0


def test_a_unit_whose_checkpoint_was_removed_is_computed_by_the_training_that_takes_its_place(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    (unit,), cases = run_methods("[mock-network]", dataset, tmp_path)
    (now,) = set(records(tmp_path)["weights"])
    assert unit.job is not None
    assert unit.evaluation.predictions is not None
    keep_rows(unit, tmp_path, cases // 2, weights="of a training before")
    shutil.rmtree(checkpoint_folder(Folders(tmp_path).checkpoints, unit.job))
    shutil.rmtree(unit.evaluation.predictions)
    assert run_methods("[mock-network]", dataset, tmp_path)[1] == cases
    assert set(records(tmp_path)["weights"]) == {now}


def test_masks_of_a_training_that_was_replaced_are_not_scored_for_the_new_one(
    local_ray: None, dataset: Dataset, tmp_path: Path
) -> None:
    """Under another tolerance the unit has no rows yet, and the masks are those of the old training."""
    (unit,), cases = run_methods("[mock-network]", dataset, tmp_path)
    train_another(unit, tmp_path)
    text = SUITE.replace("[mock-noop]", "[mock-network]").replace("budget:", "tolerances_mm: [3]\nbudget:")
    assert run(units_of(parse_suite(text, "test"), dataset, tmp_path), Folders(tmp_path), Silent()).computed == cases
    rows = records(tmp_path)
    assert "nsd@3mm" in rows
    assert set(rows["weights"]) == {"another"}


def test_a_sweep_comes_back_best_first(local_ray: None, dataset: Dataset, tmp_path: Path) -> None:

    from benchmarks.execution.tuning import Sweep, tune_method

    unit = units_of(parse_suite(SUITE.replace("[mock-noop]", "[mock-network]"), "test"), dataset, tmp_path)[0]
    assert unit.job is not None
    job = replace(unit.job, validation=tuple(dataset.split_cases("validation")))
    trials = tune_method(Sweep(job, tmp_path / "sweep", tmp_path / "checkpoints"), trials=3, concurrent=2)
    assert len(trials) == 3
    order = [(one.rungs, one.validation_dice) for one in trials]
    assert order == sorted(order, reverse=True)
    assert len({one.config["learning_rate"] for one in trials}) == 3
    assert all(one.status in ("finished", "stopped early") for one in trials)
    assert any(one.status == "finished" and one.rungs == 4 and one.checkpoint for one in trials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[mock-noop]", "[mock-nop]"), "did you mean 'mock-noop'"),
        (("[mock-noop]", "[{name: mock-network, config: {learning_rat: 1}}]"), "did you mean 'learning_rate'"),
        (("[mock-noop]", "[mock-noop, mock-noop]"), "give one of them a `label`"),
        (("cases: 6", "cases: 6, fold: 9"), "has folds 0 to"),
        (("[mock-noop]", "[mock-official]"), "`tags-bench weights fetch mock-official.bin`"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(
    dataset: Dataset, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        units_of(parse_suite(SUITE.replace(*change), "test"), dataset, tmp_path)


def test_a_case_that_is_trained_on_and_asked_about_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    split = dataset.splits[0]
    leaking = replace(dataset, splits=(replace(split, train=(*split.train, split.test[0])),))
    suite = parse_suite(SUITE.replace("[mock-noop]", "[mock-network]"), "test")
    with pytest.raises(UserError, match=rf"case '{split.test[0]}' is in the training and in the test split \(1 such"):
        units_of(suite, leaking, tmp_path)
    assert units_of(suite, dataset, tmp_path)


def test_an_official_file_is_found_and_its_place_decides_nothing(dataset: Dataset, tmp_path: Path) -> None:
    weights_folder().mkdir(parents=True)
    found = weights_folder() / "mock-official.bin"
    found.write_bytes(b"MOCK weights")
    (by_name,) = units_of(parse_suite(SUITE.replace("[mock-noop]", "[mock-official]"), "test"), dataset, tmp_path)
    assert by_name.entry.config["checkpoint"] == str(found)
    assert by_name.job is None
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(b"MOCK weights")
    entry = f"[{{name: mock-official, config: {{checkpoint: {elsewhere}}}}}]"
    (by_path,) = units_of(parse_suite(SUITE.replace("[mock-noop]", entry), "test"), dataset, tmp_path)
    assert by_path.entry.config["checkpoint"] == str(elsewhere)
    assert by_path.digest == by_name.digest
    elsewhere.write_bytes(b"another content")
    with pytest.raises(UserError, match=r"elsewhere\.bin: begins with b'anot', expected MOCK"):
        units_of(parse_suite(SUITE.replace("[mock-noop]", entry), "test"), dataset, tmp_path)
