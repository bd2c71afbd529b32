"""`run` and `ablate`: bad folders leave nothing behind, the road works end to end, a killed driver loses nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from benchmarks import api
from benchmarks.commands.options import BudgetOptions, DataOptions, LabelOptions, WorkOptions
from benchmarks.commands.run import _next_steps, _same_work
from benchmarks.common.output import DEFAULT_OUT
from benchmarks.data import registry
from benchmarks.execution import work
from benchmarks.execution.course import NotRun
from benchmarks.execution.outcomes import TuningResult
from benchmarks.results.records import RecordStore
from benchmarks.results.sweep import Trial
from tests.scan_folders import write_msd

ROOT = Path(__file__).resolve().parents[2]


def test_bad_folders_are_one_line_and_leave_nothing_behind(call, tmp_path: Path) -> None:
    good = write_msd(tmp_path / "good")

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    (tmp_path / "empty").mkdir()
    without_label = broken("without-label")
    (without_label / "labelsTr" / "case_1.nii.gz").unlink()
    truncated = broken("truncated")
    file = truncated / "imagesTr" / "case_2.nii.gz"
    file.write_bytes(file.read_bytes()[:40])
    shape = broken("shape")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), shape / "labelsTr" / "case_0.nii.gz")
    shifted = broken("shifted")
    label = nib.load(good / "labelsTr" / "case_0.nii.gz")
    moved = label.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), moved), shifted / "labelsTr" / "case_0.nii.gz")
    for folder, message in [
        ("empty", "the folder is empty"),
        ("without-label", "case_1"),
        ("truncated", "case_2"),
        ("shape", "shape"),
        ("shifted", "affine"),
    ]:
        outcome = call("run", "--data", str(tmp_path / folder), "--methods", "ball", "--out", "out")
        assert outcome.code == 2, folder
        assert message in outcome.err, folder
        assert "Traceback" not in outcome.err
        assert not list(Path("out").rglob("*.parquet"))


def test_several_labels_need_a_target(call, tmp_path: Path) -> None:
    labels = {"0": "background", "1": "liver", "2": "tumour"}
    folder = write_msd(tmp_path / "two", labels=labels)
    outcome = call("run", "--data", str(folder), "--methods", "ball")
    assert outcome.code == 2
    assert "--target" in outcome.err
    assert "2 tumour" in outcome.err


def test_an_output_folder_that_cannot_be_written(call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outcome = call("run", "--out", str(tmp_path / "file" / "below"))
    assert outcome.code == 2
    assert "cannot be written" in outcome.err


def test_a_dataset_without_source_that_was_not_added(call, tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "name: s\ndatasets: [{name: kits21}]\nmethods: [ball]\nprotocols: [centre-click]\nbudget: {steps: 1}\n"
    )
    outcome = call("run", "--suite", str(suite))
    assert outcome.code == 2
    assert "data add" in outcome.err


@pytest.mark.parametrize("verb", ["run", "tune"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("adapters: 'false'", "'adapters' takes true or false, not 'false'"),
        ("threshold: 50", "threshold is a share from 0 to below 1, not 50"),
    ],
)
def test_a_setting_that_no_run_can_have_ends_before_the_work(
    call, tmp_path: Path, verb: str, settings: str, message: str
) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "{name: s, datasets: [{name: kits21, source: phantom}], protocols: [none], budget: {steps: 1}, "
        f"methods: [{{name: tags-tiny, config: {{{settings}}}}}]}}"
    )
    outcome = call(verb, "--suite", str(suite), "--out", "out")
    assert (outcome.code, outcome.errors) == (2, [f"error: method 'tags-tiny': {message}"])
    assert not Path("out/data").exists()  # no phantom was written yet


def test_a_folder_does_not_take_the_name_of_data_that_were_added(call, tmp_path: Path) -> None:
    scans, others = write_msd(tmp_path / "scans"), write_msd(tmp_path / "others")
    registry.add(registry.Registration("mine", scans))
    words = ["run", "--dataset", "mine", "--methods", "ball", "--out", "out", "--data"]
    outcome = call(*words, str(others))
    message = f"error: own data {others}: 'mine' was added for {scans}; choose another name"
    assert (outcome.code, outcome.errors) == (2, [message])
    assert not Path("out").exists()
    assert api.OwnData(scans, "mine").entry().name == "mine"
    assert api.OwnData(others, "Their scans").entry().name == "Their scans"  # a name that nothing is added under


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "mine"], "suite 'phantom' has no phantoms of 'mine'; known: kits21, lits17"),
        (["--suite", "paper"], "suite 'paper' has no phantoms of 'kits21'; it lists real scans of that name"),
        (["--suite", "paper", "--all-datasets"], "suite 'paper' has no phantoms of 'kits21'; it lists real scans"),
    ],
)
def test_phantoms_that_the_suite_does_not_have(call, tmp_path: Path, words: list[str], message: str) -> None:
    registry.add(registry.Registration("mine", write_msd(tmp_path / "scans")))
    outcome = call("run", "--methods", "ball", "--phantoms", "--out", "out", *words)
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert message in outcome.errors[0]
    assert not Path("out").exists()


@pytest.mark.parametrize("protocol", ["none", "text"])
def test_protocols_that_no_method_can_follow_end_before_the_work(call, tmp_path: Path, protocol: str) -> None:
    folder = write_msd(tmp_path / "mine", cases=10)
    outcome = call("run", "--data", str(folder), "--methods", "ball", "--protocol", protocol, "--out", "out")
    assert outcome.code == 2
    name = "automatic" if protocol == "none" else protocol
    assert f"error: nothing to evaluate: {name}: not applicable to ball; `tags-bench methods`" in outcome.err
    assert not Path("out/records").exists()


def test_the_next_commands_work_on_the_same_data_in_the_same_folder() -> None:
    result = SimpleNamespace(suite="data-mine")
    own = DataOptions(data=Path("my scans"), labels=LabelOptions(target="2", organ="liver"), fold=["1", "2"])
    work = WorkOptions(own, budget=BudgetOptions(minutes=3))
    steps = _next_steps(result, work, Path("my out"))  # type: ignore[arg-type]
    assert steps["ranks, tests, subgroups"] == "tags-bench leaderboard --details --out 'my out' --suite data-mine"
    assert steps["search hyper-parameters"] == (
        "tags-bench tune --methods tags-tiny --data 'my scans' --target 2 --organ liver --fold 1 --minutes 3 "
        "--out 'my out'"
    )
    known = WorkOptions(DataOptions(suite="my.yaml", dataset=["kits21", "lits17"], phantoms=True, seed=0))
    assert _same_work(known, DEFAULT_OUT) == " --phantoms --suite my.yaml --dataset kits21 --dataset lits17 --seed 0"
    assert _same_work(known, DEFAULT_OUT, one=True) == " --phantoms --suite my.yaml --dataset kits21 --seed 0"
    whole = WorkOptions(DataOptions(all_datasets=True))
    assert (_same_work(whole, DEFAULT_OUT), _same_work(whole, DEFAULT_OUT, one=True)) == (" --all-datasets", "")


def test_a_sweep_says_how_its_best_is_used_with_its_data_and_budget(call, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = {"method": "tags-tiny", "dataset": "lits17", "synthetic": True}
    trial = Trial(0, {"learning_rate": 0.1}, 0.5, 4, 1.0, "finished", None)
    found = TuningResult(unit, (trial,), Path("out/sweeps/one/best.yaml"), 1.0, {})
    monkeypatch.setattr(api, "tune", lambda suite, **settings: found)
    outcome = call("tune", "--suite", "quick", "--dataset", "lits17", "--steps", "9", "--out", "out", "--trials", "1")
    assert outcome.code == 0, outcome.err
    told = "tags-bench run --methods out/sweeps/one/best.yaml --suite quick --dataset lits17 --steps 9 --out out"
    assert told in outcome.out


@pytest.mark.ray
def test_the_floors_on_a_folder_of_scans_from_end_to_end(call, tmp_path: Path, local_ray: None) -> None:
    folder = write_msd(tmp_path / "mine", cases=10)
    words = ["run", "--data", str(folder), "--methods", "ball,region-growing", "--out", "out"]
    outcome = call(*words, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert {row["method"] for row in result["leaderboard"]} == {"ball", "region-growing"}
    assert all(row["synthetic"] is False and row["failed"] == 0 for row in result["leaderboard"])
    growing = next(row for row in result["leaderboard"] if row["method"] == "region-growing")
    assert growing["dice"] > 0.75  # a bright cube in noise, its corners smoothed away
    again = json.loads(call(*words, "--json").out)
    assert again["computed_cases"] == 0
    assert again["leaderboard"] == result["leaderboard"]
    rows, _ = RecordStore(Path("out/records")).read_suite("data-mine")
    assert len(rows) == result["computed_cases"]
    assert "SYNTHETIC" not in call("leaderboard", "--suite", "data-mine", "--out", "out").out
    uri = result["MLflow store"]
    from_mlflow = json.loads(call("leaderboard", "--suite", "data-mine", "--tracking-uri", uri, "--json").out)
    by_method = {row["method"]: row["dice"] for row in from_mlflow}
    assert by_method == {row["method"]: row["dice"] for row in result["leaderboard"]}
    check_mlflow(uri)
    check_tables(call)


def test_an_ablation_from_end_to_end(call, tmp_path: Path, local_ray: None) -> None:
    folder = write_msd(tmp_path / "mine", cases=10)
    words = ["ablate", "--data", str(folder), "--methods", "mock-network", "--steps", "3", "--repeats", "2"]
    outcome = call(*words, "--out", "out", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    rows = [row for row in result["ablation"] if row["protocol"] == "centre-click"]
    assert [row["variant"] for row in rows] == ["mock-network", "without learning", "ball", "region-growing"]
    assert [row["repeats"] for row in rows] == [2, 2, 1, 1]
    cases = rows[0]["cases"]
    # two trainings of two variants and two floors; the floors have nothing to do without a prompt
    assert result["computed_cases"] == cases * (2 + 2 + 2)
    assert len(list(Path("out/checkpoints").glob("mock-network-*"))) == 2 * 2
    shown = call(*words, "--out", "out")
    assert shown.code == 0, shown.err
    assert "0 of" in shown.out
    assert "without learning" in shown.out


def check_tables(call) -> None:
    """`--table` prints that table and no other; a metric that is not there ends with the nearest one."""
    named = ("leaderboard", "--suite", "data-mine", "--out", "out")
    board = call(*named).out
    assert "Dice [95 % CI]" in board
    only = call(*named, "--table", "completeness")
    assert only.code == 0, only.err
    assert "complete" in only.out
    assert "Dice [95 % CI]" not in only.out
    both = call(*named, "--details").out
    assert board.splitlines()[1] in both
    assert set(json.loads(call(*named, "--table", "completeness", "--table", "sizes", "--json").out)) == {
        "completeness",
        "sizes",
    }
    for metric, nearest in (("hd95", "hd95_mm"), ("nsd@3mm", "nsd@"), ("seconds", "seconds_")):
        wrong = call(*named, "--metric", metric)
        assert wrong.code == 2
        assert f"did you mean '{nearest}" in wrong.errors[0]


@pytest.mark.ray
def test_cases_that_the_machine_kept_from_running_give_exit_code_3(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    folder = write_msd(tmp_path / "mine", cases=10)
    missing = NotRun("mock-threshold · mine", "case_1", "the disk is full")
    real = work.run_units
    monkeypatch.setattr(work, "run_units", lambda *given, **named: replace(real(*given, **named), not_run=(missing,)))
    outcome = call("run", "--data", str(folder), "--methods", "mock-threshold", "--out", "out", "--json")
    assert outcome.code == 3
    assert "not run: mock-threshold · mine, case_1: the disk is full" in outcome.err
    told = json.loads(outcome.out)
    assert told["not_run"] == [{"unit": missing.unit, "case": "case_1", "reason": "the disk is full"}]
    assert "leaderboard" not in told
    text = call("run", "--data", str(folder), "--methods", "mock-threshold", "--out", "out")
    assert text.code == 3
    assert "Dice" not in text.out
    monkeypatch.setattr(work, "run_units", real)
    assert call("run", "--data", str(folder), "--methods", "mock-threshold", "--out", "out").code == 0


def check_mlflow(uri: str) -> None:
    """One parent, one child per unit and protocol, with parameters, metrics, dataset input and tables; none twice."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tags-bench/data-mine")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags["tagsbench.kind"] == "suite"]
    results = [run for run in runs if run.data.tags["tagsbench.kind"] == "result"]
    assert len(parents) == 1
    names = sorted(run.info.run_name for run in results)
    assert len(names) == len(set(names)) >= 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    artifacts = {entry.path for entry in client.list_artifacts(parents[0].info.run_id)}
    assert {"environment.json", "leaderboard.json", "leaderboard.md", "suite.json", "units.json"} <= artifacts
    for one in results:
        assert one.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert one.data.params["dataset"] == "mine"
        assert 0 <= one.data.metrics["dice"] <= 1
        assert one.data.metrics["rank"] >= 1
        assert one.data.tags["device"] == "CPU"
        assert one.info.start_time < one.info.end_time
        assert len(one.inputs.dataset_inputs) == 1
        paths = {entry.path for entry in client.list_artifacts(one.info.run_id)}
        assert {"records.parquet", "unit.json", "cases.json"} <= paths


@pytest.mark.ray
def test_results_of_phantoms_say_that_they_are_synthetic(call, local_ray: None) -> None:
    outcome = call("run", "--methods", "mock-noop", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert "SYNTHETIC" in outcome.out
    assert "SYNTHETIC" in outcome.err
    assert "SYNTHETIC" in call("leaderboard", "--out", "out").out


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "run", "--methods", "ball,region-growing", "--json", "--out", str(tmp_path)]
    records = tmp_path / "records"

    def finished() -> dict[str, int]:
        files = records.glob("*/*/*/[!.]*.parquet")  # a killed writer may leave a hidden folder with half a file
        return {str(path): path.stat().st_mtime_ns for path in files}

    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(finished()) < 2 and driver.poll() is None:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = finished()
    assert before
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = finished()
    assert json.loads(done.stdout)["computed_cases"] == len(after) - len(before)
    assert {path: after[path] for path in before} == before
    assert len(after) == 16
