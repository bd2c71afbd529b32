"""`tags-bench train` and `tune` from the words of the command line to what they leave on disk and in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.ray

SUITE = """
name: small
seed: 7
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-learner]
protocols: [centre-click]
budget: {steps: 8}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def runs_of(store: Path, call: Any) -> list[Any]:
    """All runs. A busy machine may have taken longer than a command waits for MLflow; then the rest is sent first."""
    outcome = call("sync", "--out", str(store.parent))
    assert outcome.code == 0, outcome.err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def history(store: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    found = MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}").get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in found)


def test_train_leaves_a_checkpoint_and_a_run(local_ray: None, call: Any, suite: Path, tmp_path: Path) -> None:
    words = ("train", "--suite", str(suite), "--methods", "mock-learner", "--out", "out", "--json")
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    (figures,) = json.loads(outcome.out)
    folder = Path(figures["checkpoint"])
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "training.json"]
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half done beside it
    kept = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert kept == {key: value for key, value in figures.items() if key != "checkpoint"}
    assert (kept["steps"], kept["cases"], kept["parameters"], kept["dataset"]) == (8, 3, 257, "kits21")

    (run,) = runs_of(Path("out/mlflow.db"), call)
    assert run.info.status == "FINISHED"
    assert run.data.params["method"] == "mock-learner"
    assert run.data.params["config.learning_rate"] == "0.01"
    assert run.data.metrics["training/steps"] == 8
    assert run.data.metrics["training/waiting_share"] == kept["waiting_share"]
    curve = [(point["step"], point["loss"]) for point in kept["curve"]]
    assert history(Path("out/mlflow.db"), run.info.run_id, "train/loss") == curve
    assert len(history(Path("out/mlflow.db"), run.info.run_id, "train/waiting_share")) == len(curve) == 8
    from mlflow.artifacts import load_dict

    logged = load_dict(f"{run.info.artifact_uri}/training.json")
    assert Path("out", logged["checkpoint"]).resolve() == folder  # from the output folder on, which may be moved

    before = (folder / "training.json").stat().st_mtime_ns
    assert call(*words).code == 0  # finished: read, not trained again
    assert (folder / "training.json").stat().st_mtime_ns == before
    assert len(runs_of(Path("out/mlflow.db"), call)) == 1


def test_a_training_that_fails_costs_the_others_nothing(local_ray: None, call: Any, suite: Path) -> None:
    words = ("train", "--suite", str(suite), "--out", "out", "--json", "--methods")
    outcome = call(*words, "mock-bad-fit,mock-learner")
    assert outcome.code == 1
    assert [figures["method"] for figures in json.loads(outcome.out)] == ["mock-learner"]
    assert "failed: mock-bad-fit · kits21: ValueError: the tool ended with exit code 9" in outcome.err
    assert len(runs_of(Path("out/mlflow.db"), call)) == 1

    outcome = call(*words, "mock-dying-fit,mock-learner,mock-bad-fit")
    assert outcome.code == 3
    # Ray itself says that a worker died, but not on standard output.
    assert [figures["method"] for figures in json.loads(outcome.out)] == ["mock-learner"]
    assert "not run: mock-dying-fit · kits21: " in outcome.err
    assert "failed: mock-bad-fit · kits21: " in outcome.err
    assert outcome.err.rstrip().endswith("the same call takes up again what was not run")


def test_tune_begins_with_the_default_and_leaves_its_best(
    local_ray: None, call: Any, suite: Path, tmp_path: Path
) -> None:
    outcome = call(
        "tune", "--suite", str(suite), "--out", "out", "--methods", "mock-learner", "--trials", "3", "--json"
    )
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    trials = {row["trial"]: row for row in told["trials"]}
    assert sorted(trials) == [0, 1, 2]
    assert (trials[0]["learning_rate"], trials[0]["batch_size"]) == (0.01, 2)
    assert all(1e-3 <= row["learning_rate"] <= 1e-1 and row["batch_size"] in (1, 2) for row in trials.values())
    order = [(row["rungs"], row["validation_dice"]) for row in told["trials"]]
    assert order == sorted(order, reverse=True)
    assert told["trials"][0]["status"] == "finished"
    best_file = Path(told["best_file"])
    best = yaml.safe_load(best_file.read_text(encoding="utf-8"))
    assert (best["name"], best["label"], best["config"]) == ("mock-learner", "mock-learner-tuned", told["best"])
    checkpoints = list((best_file.parent / "checkpoints").iterdir())
    assert len(checkpoints) == sum(row["status"] == "finished" for row in told["trials"])
    assert all((path / "training.json").is_file() for path in checkpoints)

    runs = runs_of(Path("out/mlflow.db"), call)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 3
    assert parent.data.tags["best.learning_rate"] == str(told["best"]["learning_rate"])
    (first,) = [run for run in children if run.data.tags["tagsbench.key"] == "0"]
    points = history(Path("out/mlflow.db"), first.info.run_id, "validation_dice")
    assert [step for step, _ in points] == list(range(1, trials[0]["rungs"] + 1))
    assert {run.data.params["learning_rate"] for run in children} >= {"0.01"}

    outcome = call("train", "--suite", str(suite), "--out", "out", "--methods", str(best_file), "--json")
    assert outcome.code == 0, outcome.err
    (figures,) = json.loads(outcome.out)
    assert {knob: figures["config"][knob] for knob in told["best"]} == told["best"]
    assert len(figures["validations"]) == 4  # it is the sweep's training, not another one


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_trains_nothing_twice(suite: Path, tmp_path: Path) -> None:
    """The driver and its Ray are killed in the middle; the same command then finishes what was begun."""
    words = ("tune", "--suite", str(suite), "--out", str(tmp_path / "out"), "--methods", "mock-learner", "--json")
    command = [sys.executable, "-m", "cli", *words, "--concurrent", "1", "--trials"]
    environment = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0.2"}
    first = psutil.Popen([*command, "4"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        (log,) = wait_for(lambda: list((tmp_path / "out" / "sweeps").glob("*/trials.json")), 120)
        wait_for(lambda: over(log) >= 2, 120)
    finally:
        family = [*first.children(recursive=True), first]
        for process in reversed(family):
            process.kill()
        psutil.wait_procs(family, timeout=30)
    before = {path: path.stat().st_mtime_ns for path in finished_trainings(log.parent)}
    settings = {one["name"]: one["config"] for one in json.loads(log.read_text(encoding="utf-8"))["trials"]}
    done = subprocess.run([*command, "4"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(row["trial"] for row in told["trials"]) == [0, 1, 2, 3]
    assert all(row["status"] in ("finished", "stopped early") for row in told["trials"])
    after = {one["name"]: one["config"] for one in json.loads(log.read_text(encoding="utf-8"))["trials"]}
    kept = [name for name in settings if name in after]
    assert len(kept) >= 1
    assert all(settings[name] == after[name] for name in kept)
    assert {path: path.stat().st_mtime_ns for path in before} == before

    done = subprocess.run([*command, "6"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # two more, that learn from the first four
    assert sorted(row["trial"] for row in json.loads(done.stdout)["trials"]) == [0, 1, 2, 3, 4, 5]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def over(log: Path) -> int:
    """Trials of a sweep that are over."""
    return sum(one["status"] != "running" for one in json.loads(log.read_text(encoding="utf-8"))["trials"])


def finished_trainings(sweep: Path) -> list[Path]:
    return sorted((sweep / "checkpoints").glob("*/training.json"))
