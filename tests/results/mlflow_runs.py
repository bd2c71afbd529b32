"""Runs for the tests of MLflow, and how they are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from benchmarks.prompting.protocol import Protocol
from benchmarks.results.mlflow import MlflowSink, default_uri, summary_of
from tests.results.boards import row_of, unit_of

ITERATIVE = Protocol("iterative", rounds=3)
DICE = {1: (0.2, 0.4), 2: (0.5, 0.7), 3: (0.6, None)}  # step → two cases; None failed, so its Dice is 0
SUITE = {"name": "suite", "seed": 7}


def description_of(method: str, suite: str = "suite") -> dict[str, Any]:
    more = {"suite": suite, "method_version": "1", "dataset_version": "1", "seed": 7, "workers": 0, "empty_policy": "p",
            "metrics_version": 2, "config": {"rate": 0.1}, "budget": {"steps": 3}, "training_cases": ["t"],
            "cases_digest": "5eed", "synthetic": True, "checkpoint": "c0ffee" if method == "net" else ""}  # fmt: skip
    return unit_of(method, "kits21", [ITERATIVE], 2, **more)


def rows_of(description: dict[str, Any]) -> pd.DataFrame:
    rows = [
        row_of(description, case, ITERATIVE, step, dice)
        for step, pair in DICE.items()
        for case, dice in enumerate(pair)
    ]
    return pd.DataFrame(rows)


def a_run(out: Path, uri: str | None = None, plan: str = "plan", suite: str = "suite", patience: float = 30.0) -> int:
    """What a run of two methods, of which one is trained, sends; the number of messages that are left."""
    sink = MlflowSink(out, uri)
    descriptions = [description_of(method, suite) for method in ("ball", "net")]
    ball, net = descriptions
    sink.begin({**SUITE, "name": suite}, plan, True, descriptions)
    sink.log_unit(ball, rows_of(ball), None)
    sink.log_training(net, TRAINING)
    sink.log_model(net, checkpoint_in(out))
    sink.log_unit(net, rows_of(net), TRAINING)
    sink.end(summary_of(pd.concat(map(rows_of, descriptions), ignore_index=True), descriptions))
    return sink.close(patience)


CURVE = [
    {"step": 1, "progress": 0.3, "seconds": 1.0, "loss": 0.9},
    {"step": 3, "progress": 1.0, "seconds": 3.0, "loss": 0.5},
]
TRAINING = {"seconds_total": 4.0, "seconds_training": 3.0, "steps": 3, "parameters": 1000, "curve": CURVE, "config": {}}
MESSAGES, RUNS = 6, 4  # of `a_run`: the suite, two rows, a training; and a model, which is no run


def checkpoint_in(out: Path, write: bool = True) -> Path:
    folder = out / "checkpoints" / "net-kits21-c0ffee"
    if not write:
        return folder
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.ones(3, np.float32)}, folder / "checkpoint" / "weights.safetensors")
    (folder / "checkpoint" / "checkpoint.json").write_text("{}", encoding="utf-8")
    (folder / "checkpoint" / "tool.pkl").write_bytes(b"not to be logged")
    return folder


def client_of(out: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=default_uri(out))


def runs_of(out: Path) -> list[Any]:
    client = client_of(out)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))


def parents(runs: list[Any]) -> list[Any]:
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def child_named(runs: list[Any], name: str) -> Any:
    return next(run for run in runs if run.info.run_name.startswith(name))


def artifact(out: Path, run_id: str, name: str) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(run_id=run_id, artifact_path=name, tracking_uri=default_uri(out)))
