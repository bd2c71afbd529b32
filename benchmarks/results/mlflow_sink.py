"""Records and artifacts → MLflow. MLflow is a sink: losing it loses nothing, the records stay the truth.

One parent run per suite and plan, one child per unit, found again by tag, so that a resumed run goes on in the
same MLflow runs. The driver alone writes; workers never see the tracking server.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.environment import manifest
from benchmarks.common.errors import UserError
from benchmarks.results.leaderboard import METRIC_COLUMNS, summarise
from benchmarks.results.records import upgraded
from benchmarks.results.sweep import Trial

UNIT_TAG, PLAN_TAG, SUITE_TAG, SYNTHETIC_TAG = (
    "tagsbench.unit",
    "tagsbench.plan",
    "tagsbench.suite",
    "tagsbench.synthetic",
)
SYNTHETIC_NOTE = "Synthetic phantoms: these numbers rank methods on generated data and say nothing about patients."
PARAM_LIMIT = 500


def default_uri(out: Path) -> str:
    """The SQLite store of an output folder, as an absolute URI."""
    return f"sqlite:///{(out / 'mlflow.db').resolve()}"


class MlflowSink:
    """The MLflow side of one benchmark run."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        """Connect, creating the SQLite store and the experiment if they are new.

        Args:
            uri: tracking URI; SQLite paths must be absolute.
            artifacts: where a new experiment on a local store keeps its artifacts.

        Raises:
            UserError: nothing answers there.
        """
        quiet_mlflow()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.uri = uri
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment_id = self._experiment(experiment, artifacts)
        except (MlflowException, OSError) as error:
            raise UserError(f"MLflow at '{uri}' cannot be used: {' '.join(str(error).split())[:200]}") from error
        self.parent_id = ""

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = artifacts.resolve().as_uri() if artifacts is not None else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def begin(self, suite: Mapping[str, Any], plan: str, synthetic: bool) -> str:
        """Open the parent run of a plan (the one of an earlier call if there is one); returns its id."""
        tags = {SUITE_TAG: str(suite["name"]), PLAN_TAG: plan, SYNTHETIC_TAG: str(synthetic).lower()}
        if synthetic:
            tags["mlflow.note.content"] = SYNTHETIC_NOTE
        name = f"{'[synthetic] ' if synthetic else ''}{suite['name']}"
        self.parent_id = self._run(name, PLAN_TAG, plan, tags, parent=None)
        self._params(self.parent_id, {"suite": suite["name"], "seed": suite["seed"], "plan": plan})
        self.client.log_dict(self.parent_id, dict(suite), "suite.json")
        self.client.log_dict(self.parent_id, manifest(), "environment.json")
        return self.parent_id

    def log_unit(self, description: Mapping[str, Any], rows: pd.DataFrame, training: Mapping[str, Any] | None) -> str:
        """Write one unit as a child run: parameters, metrics, dataset input, tables; returns the run's id."""
        unit = str(description["unit"])
        synthetic = bool(description["synthetic"])
        tags = {
            UNIT_TAG: unit,
            SUITE_TAG: str(description["suite"]),
            SYNTHETIC_TAG: str(synthetic).lower(),
            "tagsbench.method": str(description["method"]),
            "tagsbench.dataset": str(description["dataset"]),
            "mlflow.parentRunId": self.parent_id,
        }
        if synthetic:
            tags["mlflow.note.content"] = SYNTHETIC_NOTE
        name = f"{'[synthetic] ' if synthetic else ''}{description['method']} on {description['dataset']}"
        run_id = self._run(name, UNIT_TAG, unit, tags, parent=self.parent_id)
        keys = ("method", "method_version", "dataset", "dataset_version", "fold", "seed", "checkpoint", "workers",
                "empty_policy", "metrics_version", "contamination")  # fmt: skip
        parameters = {key: description[key] for key in keys}
        parameters |= {f"config.{key}": value for key, value in description["config"].items()}
        parameters |= {f"budget.{key}": value for key, value in description["budget"].items()}
        self._params(run_id, parameters)
        self._metrics(run_id, unit_metrics(rows))
        if training:
            self._metrics(run_id, _training_metrics(training))
            self._curve(run_id, training.get("curve", []))
            self.client.log_dict(run_id, dict(training), "training.json")
        self.client.log_dict(run_id, dict(description), "unit.json")
        self._log_tables(run_id, rows)
        self._log_dataset(run_id, description)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def log_training(self, description: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
        """Write one training without evaluation as a run of its own; returns the run's id."""
        tags = {"tagsbench.training": str(description["checkpoint"])}
        tags[SYNTHETIC_TAG] = str(description["synthetic"]).lower()
        name = f"training {description['method']} on {description['dataset']}"
        run_id = self._run(name, "tagsbench.training", str(description["checkpoint"]), tags, parent=None)
        self._params(run_id, {"method": description["method"], "dataset": description["dataset"]})
        self._params(run_id, {f"config.{key}": value for key, value in figures["config"].items()})
        self._metrics(run_id, _training_metrics(figures))
        self._curve(run_id, figures.get("curve", []))
        self.client.log_dict(run_id, dict(figures), "training.json")
        self.client.log_dict(run_id, manifest(), "environment.json")
        self._log_dataset(run_id, {**description, "cases": []})
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def log_sweep(self, description: Mapping[str, Any], trials: Sequence[Trial]) -> str:
        """Write a sweep: a parent run, one child per trial; returns the parent's id."""
        synthetic = bool(description["synthetic"])
        tags = {"tagsbench.sweep": str(description["unit"]), SYNTHETIC_TAG: str(synthetic).lower()}
        if synthetic:
            tags["mlflow.note.content"] = SYNTHETIC_NOTE
        name = f"{'[synthetic] ' if synthetic else ''}sweep of {description['method']} on {description['dataset']}"
        parent = str(self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)
        for trial in trials:
            child = self.client.create_run(
                self.experiment_id,
                run_name=f"trial {trial.number}",
                tags={
                    "mlflow.parentRunId": parent,
                    SYNTHETIC_TAG: str(synthetic).lower(),
                    "status": trial.status,
                },
            )
            run_id = str(child.info.run_id)
            self._params(run_id, trial.config)
            self._metrics(
                run_id,
                {"validation_dice": trial.validation_dice, "rungs": trial.rungs, "seconds": trial.seconds},
            )
            self.client.set_terminated(run_id, "FAILED" if trial.status.startswith("failed") else "FINISHED")
        self._params(parent, {f"best.{key}": value for key, value in trials[0].config.items()})
        self._metrics(parent, {"best_validation_dice": trials[0].validation_dice, "trials": len(trials)})
        self.client.log_dict(parent, manifest(), "environment.json")
        self.client.set_terminated(parent, "FINISHED")
        return parent

    def end(self, leaderboard: pd.DataFrame, failed: int) -> None:
        """Close the parent run with the leaderboard as a table."""
        self._metrics(self.parent_id, {"rows": float(len(leaderboard)), "failed_rows": float(failed)})
        if not leaderboard.empty:
            self.client.log_table(self.parent_id, leaderboard.astype(object), "leaderboard.json")
        self.client.set_terminated(self.parent_id, "FINISHED")

    def _run(self, name: str, tag: str, value: str, tags: dict[str, str], parent: str | None) -> str:
        query = f"tags.`{tag}` = '{value}'"
        if parent is not None:
            query += f" and tags.`mlflow.parentRunId` = '{parent}'"
        found = self.client.search_runs([self.experiment_id], filter_string=query, max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        already = self.client.get_run(run_id).data.params
        new = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in values.items() if key not in already]
        self.client.log_batch(run_id, params=new)

    def _metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = _milliseconds()
        self.client.log_batch(run_id, metrics=[Metric(key, float(v), now, step) for key, v in values.items()])

    def _curve(self, run_id: str, curve: list[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        if "train/loss" in self.client.get_run(run_id).data.metrics:
            return  # logged by the run that this one resumes
        now = _milliseconds()
        points = [
            Metric(f"train/{key}", float(value), now, int(point["step"]))
            for point in curve
            for key, value in point.items()
            if key not in ("step", "progress")
        ]
        for start in range(0, len(points), 500):
            self.client.log_batch(run_id, metrics=points[start : start + 500])

    def _log_tables(self, run_id: str, rows: pd.DataFrame) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.parquet"
            rows.to_parquet(path, index=False)
            self.client.log_artifact(run_id, str(path))
        columns = ["case", "protocol", "step", "status", "reason", *[c for c in METRIC_COLUMNS if c in rows]]
        if not rows.empty:
            self.client.log_table(run_id, rows[columns].astype(object), "cases.json")

    def _log_dataset(self, run_id: str, description: Mapping[str, Any]) -> None:
        """The split manifest as a dataset input: names and a digest, never the volumes."""
        import mlflow.data
        from mlflow.entities import DatasetInput, InputTag

        parts = [("train", case) for case in description["training_cases"]]
        parts += [("test", case) for case in description["cases"]]
        frame = pd.DataFrame(parts, columns=["part", "case"])
        dataset = mlflow.data.from_pandas(frame, name=str(description["dataset"]))
        tags = [
            InputTag("mlflow.data.context", "evaluation"),
            InputTag("synthetic", str(description["synthetic"])),
        ]
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])


def unit_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Aggregates of a unit for MLflow: `<metric>/<protocol>` at the last step, failures counted as worst."""
    if rows.empty:
        return {}
    values: dict[str, float] = {}
    for record in summarise(rows).to_dict("records"):
        protocol = record["protocol"]
        for column in METRIC_COLUMNS:
            if column in record and pd.notna(record[column]):
                values[f"{_metric_name(column)}/{protocol}"] = float(record[column])
        values[f"failed/{protocol}"] = float(record["failed"])
    return values


def _metric_name(column: str) -> str:
    """MLflow allows letters, digits and _-./ and spaces in names."""
    return column.replace("@", "_at_")


def _training_metrics(training: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"training/{key}": float(value)
        for key, value in training.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _milliseconds() -> int:
    import time

    return int(time.time() * 1000)


def quiet_mlflow() -> None:
    """Keep MLflow's own chatter off the terminal, and its pickle loading off altogether."""
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def records_from_mlflow(uri: str, suite: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows and unit descriptions of the latest run of a suite on an MLflow server.

    Raises:
        UserError: the server does not answer, or has no run of that suite.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(f"MLflow at '{uri}' cannot be read: no such file")  # MLflow would create an empty store
    quiet_mlflow()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        parents = client.search_runs(
            experiments,
            filter_string=f"tags.`{SUITE_TAG}` = '{suite}' and tags.`{PLAN_TAG}` != ''",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not parents:
            raise UserError(f"MLflow at '{uri}' has no run of suite '{suite}'")
        query = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
        frames, units = [], []
        for child in client.search_runs(experiments, filter_string=query):
            with tempfile.TemporaryDirectory() as folder:
                for name in ("records.parquet", "unit.json"):
                    download_artifacts(run_id=child.info.run_id, artifact_path=name, dst_path=folder, tracking_uri=uri)
                frames.append(upgraded(pd.read_parquet(Path(folder) / "records.parquet"), uri))
                units.append(json.loads((Path(folder) / "unit.json").read_text(encoding="utf-8")))
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at '{uri}' cannot be read: {' '.join(str(error).split())[:200]}") from error
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), units
