"""Messages → runs of an MLflow server. Each is written so that writing it again changes nothing.

One parent run for each plan and output folder, one child for each unit, found again by tags. A child carries the
digest of the message that it was made of, so that what is there is not sent again.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.identity import digest
from benchmarks.results.leaderboard import mean_columns, summarise
from benchmarks.results.mlflow_outbox import Message
from benchmarks.results.sweep import METRIC as SWEEP_METRIC
from benchmarks.results.sweep import RUNNING, Trial, as_rows, best_first, trial_of

PLAN_TAG, OUT_TAG, SUITE_TAG, CALLED_TAG = "tagsbench.plan", "tagsbench.out", "tagsbench.suite", "tagsbench.called_at"
ENDED_TAG = "tagsbench.ended"  # the time of the call that has ended
KEY_TAG, UNIT_TAG, CONTENT_TAG = "tagsbench.key", "tagsbench.unit", "tagsbench.content"
TRAINING_TAG, SWEEP_TAG, SYNTHETIC_TAG = "tagsbench.training", "tagsbench.sweep", "tagsbench.synthetic"
PARENT_TAG, NOTE_TAG, USER_TAG = "mlflow.parentRunId", "mlflow.note.content", "mlflow.user"
SYNTHETIC_NOTE = "Synthetic phantoms: these numbers rank methods on generated data and say nothing about patients."
PARAM_LIMIT = 500
BATCH = 500

Warn = Callable[[str], None]


class MlflowWriter:
    """A connection to one server that writes messages into one experiment."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None, warn: Warn) -> None:
        """Connect; the experiment is made if it is new and restored if somebody deleted it.

        Args:
            artifacts: where a new experiment of a local store keeps its artifacts.

        Raises:
            Exception: whatever MLflow and its store raise if the server cannot be used.
        """
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = self._experiment(experiment, artifacts, warn)
        self._parents: dict[tuple[str, str], str] = {}
        self._children: dict[str, dict[str, Any]] = {}

    def send(self, message: Message) -> None:
        """Write one message. Raises whatever MLflow raises if that fails; it can then be sent again."""
        writers = {
            "begin": self._begin,
            "unit": self._unit,
            "training": self._training,
            "sweep": self._sweep,
            "end": self._end,
        }
        writers[message.kind](message)

    def _experiment(self, name: str, artifacts: Path | None, warn: Warn) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = artifacts.resolve().as_uri() if artifacts is not None else None
            return str(self.client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
            warn(f"the MLflow experiment '{name}' had been deleted and is restored")
        return str(found.experiment_id)

    # The parent of a plan

    def _parent(self, plan: Mapping[str, Any]) -> str:
        """The run of a plan in an output folder; made if there is none."""
        identity = (str(plan["plan"]), str(plan["out"]))
        if identity not in self._parents:
            tags = {PLAN_TAG: identity[0], OUT_TAG: identity[1]}
            found = self._find(tags)
            if found is None:
                tags |= {SUITE_TAG: str(plan["suite"]), USER_TAG: str(plan["user"])} | _synthetic_tags(plan)
                self._parents[identity] = self._create(_marked(str(plan["suite"]), plan), tags)
            else:
                self._parents[identity] = str(found.info.run_id)
        return self._parents[identity]

    def _begin(self, message: Message) -> None:
        plan = message.content["plan"]
        self._end_abandoned(plan)
        parent = self._parent(plan)
        called_at = str(message.content["called_at"])
        if self.client.get_run(parent).data.tags.get(ENDED_TAG) != called_at:  # else its end was sent before it
            self.client.update_run(parent, status="RUNNING")
        self.client.set_tag(parent, CALLED_TAG, called_at)
        self._params(parent, {"suite": plan["suite"], "seed": plan["seed"], "plan": plan["plan"]})
        self.client.log_dict(parent, dict(message.content["suite"]), "suite.json")
        self._list(parent, message.content["units"], "units.json")
        self.client.log_dict(parent, dict(message.content["environment"]), "environment.json")

    def _end_abandoned(self, plan: Mapping[str, Any]) -> None:
        """Runs of this output folder that a crash left running are over."""
        for run in self._search({OUT_TAG: str(plan["out"])}):
            if run.info.status == "RUNNING" and run.data.tags.get(PLAN_TAG) != plan["plan"]:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _end(self, message: Message) -> None:
        parent = self._parent(message.content["plan"])
        self._metrics(parent, message.content["figures"], message)
        if message.rows is not None and not message.rows.empty:
            self._table(parent, message.rows, "leaderboard.json")
        self.client.set_tag(parent, ENDED_TAG, str(message.content.get("called_at", "")))
        self.client.set_terminated(parent, str(message.content["status"]))

    # Children and single runs

    def _unit(self, message: Message) -> None:
        description, training = message.content["description"], message.content["training"]
        rows = message.rows if message.rows is not None else pd.DataFrame()
        parent = self._parent(message.content["plan"])
        child = self._child(parent, message.key)
        if child is not None and child.data.tags.get(CONTENT_TAG) == message.digest:
            return
        if child is None:
            tags = {
                PARENT_TAG: parent,
                KEY_TAG: message.key,
                UNIT_TAG: str(description["unit"]),
                SUITE_TAG: str(description["suite"]),
                USER_TAG: str(message.content["plan"]["user"]),
                "tagsbench.method": str(description["method"]),
                "tagsbench.dataset": str(description["dataset"]),
            } | _synthetic_tags(description)
            name = _marked(f"{description['method']} on {description['dataset']}", description)
            run_id = self._create(name, tags, start=message.written_at - _duration(rows, training))
        else:
            run_id = str(child.info.run_id)
        self._params(run_id, _parameters(description))
        for step, values in curves_of(rows):
            self._metrics(run_id, values, message, step)
        self._metrics(run_id, unit_metrics(rows), message)
        if training:
            self._log_training(run_id, training, message)
        self.client.log_dict(run_id, dict(description), "unit.json")
        self._records(run_id, rows)
        self._dataset(run_id, description)
        self._complete(run_id, message)
        self._children[parent].pop(message.key, None)  # its tags are not those that were read

    def _training(self, message: Message) -> None:
        description, figures = message.content["description"], message.content["training"]
        tags = {TRAINING_TAG: str(description["checkpoint"])}
        found = self._find(tags)
        if found is not None and found.data.tags.get(CONTENT_TAG) == message.digest:
            return
        if found is None:
            name = _marked(f"{description['method']} on {description['dataset']}, training", description)
            start = message.written_at - _duration(pd.DataFrame(), figures)
            run_id = self._create(name, tags | _synthetic_tags(description), start)
        else:
            run_id = str(found.info.run_id)
        self._params(run_id, {"method": description["method"], "dataset": description["dataset"]})
        self._params(run_id, {f"config.{key}": value for key, value in figures["config"].items()})
        self._log_training(run_id, figures, message)
        self.client.log_dict(run_id, dict(message.content["environment"]), "environment.json")
        self._dataset(run_id, description)
        self._complete(run_id, message)

    def _sweep(self, message: Message) -> None:
        description, ended = message.content["description"], message.content.get("ended", True)
        trials = [trial_of(plain) for plain in message.content["trials"]]
        found = self._find({SWEEP_TAG: message.key})
        if found is not None and found.data.tags.get(CONTENT_TAG) == message.digest:
            return
        if found is None:
            name = _marked(f"{description['method']} on {description['dataset']}, sweep", description)
            parent = self._create(name, {SWEEP_TAG: message.key} | _synthetic_tags(description))
        else:
            parent = str(found.info.run_id)
        for trial in trials:
            self._trial(parent, trial, description, message)
        best = next((one for one in best_first(trials) if one.has_result), None)
        if best is not None:  # as tags: a parameter could not change while the sweep goes on
            self.client.set_tag(parent, "best.trial", str(best.number))
            for knob, value in best.config.items():
                self.client.set_tag(parent, f"best.{knob}", str(value))
            over = sum(one.status != RUNNING for one in trials)
            figures = {"best_validation_dice": best.validation_dice, "trials": len(trials), "trials_over": over}
            self._metrics(parent, figures, message, over)
        if ended:
            self._table(parent, pd.DataFrame(as_rows(best_first(trials))), "trials.json")
            self.client.log_dict(parent, dict(message.content["environment"]), "environment.json")
            self._complete(parent, message)

    def _trial(self, parent: str, trial: Trial, description: Mapping[str, Any], message: Message) -> None:
        """A run with a point for each rung; what the server has of it already stays."""
        key = str(trial.number)
        child = self._child(parent, key)
        if child is None:
            tags = {PARENT_TAG: parent, KEY_TAG: key} | _synthetic_tags(description)
            began = message.written_at - trial.seconds
            run_id, known = self._create(f"trial {key}", tags, start=began), ""
            self._children[parent][key] = self.client.get_run(run_id)
        else:
            run_id, known = str(child.info.run_id), child.data.tags.get(CONTENT_TAG, "")
        content = digest(trial.as_plain())
        if content == known:
            return
        self._params(run_id, trial.config)
        there = {point.step for point in self.client.get_metric_history(run_id, SWEEP_METRIC)}
        for point in trial.curve:
            if int(point["rung"]) not in there:
                values = {name: value for name, value in point.items() if name not in ("rung", "at")}
                self._metrics(run_id, values, replace(message, written_at=point["at"]), int(point["rung"]))
        if trial.status != RUNNING:
            self._metrics(run_id, {"rungs": trial.rungs, "seconds_total": trial.seconds}, message)
            bad = not trial.has_result
            self.client.set_terminated(run_id, "FAILED" if bad else "FINISHED", _milliseconds(message.written_at))
        self.client.set_tag(run_id, "status", trial.status)
        self.client.set_tag(run_id, CONTENT_TAG, content)
        self._children[parent][key] = self.client.get_run(run_id)

    def _log_training(self, run_id: str, training: Mapping[str, Any], message: Message) -> None:
        self._metrics(run_id, _training_metrics(training), message)
        for point in training.get("curve", []):
            values = {f"train/{key}": value for key, value in point.items() if key not in ("step", "progress")}
            self._metrics(run_id, values, message, int(point["step"]))
        self.client.log_dict(run_id, dict(training), "training.json")

    def _complete(self, run_id: str, message: Message) -> None:
        self.client.set_tag(run_id, CONTENT_TAG, message.digest)
        self.client.set_terminated(run_id, "FINISHED", _milliseconds(message.written_at))

    # What MLflow is asked for

    def _create(self, name: str, tags: Mapping[str, str], start: float | None = None) -> str:
        when = None if start is None else _milliseconds(start)
        run = self.client.create_run(self.experiment_id, start_time=when, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def _find(self, tags: Mapping[str, str]) -> Any:
        return next(iter(self._search(tags)), None)

    def _search(self, tags: Mapping[str, str]) -> Iterable[Any]:
        """The runs of the experiment that carry all these tags, the newest first."""
        return search_by_tags(self.client, [self.experiment_id], tags)

    def _child(self, parent: str, key: str) -> Any:
        if parent not in self._children:
            runs = list(self._search({PARENT_TAG: parent}))
            self._children[parent] = {run.data.tags.get(KEY_TAG, ""): run for run in reversed(runs)}
        return self._children[parent].get(key)

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Parameters cannot be changed in MLflow: those that are there stay."""
        from mlflow.entities import Param

        already = self.client.get_run(run_id).data.params
        new = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in values.items() if key not in already]
        if new:
            self.client.log_batch(run_id, params=new)

    def _metrics(self, run_id: str, values: Mapping[str, Any], message: Message, step: int = 0) -> None:
        """Time and step come from the message: MLflow keeps one of two points that are equal in all."""
        from mlflow.entities import Metric

        when = _milliseconds(message.written_at)
        points = [Metric(name, float(v), when, step) for name, v in values.items() if math.isfinite(float(v))]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + BATCH])

    def _list(self, run_id: str, values: list[str], name: str) -> None:
        self.client.log_text(run_id, json.dumps(values, indent=2), name)

    def _table(self, run_id: str, rows: pd.DataFrame, name: str) -> None:
        """A table that MLflow's pages show; written whole, where `log_table` would append to what is there."""
        plain = json.loads(rows.to_json(orient="split", index=False))
        self.client.log_dict(run_id, {"columns": plain["columns"], "data": plain["data"]}, name)
        self.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    def _records(self, run_id: str, rows: pd.DataFrame) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.parquet"
            rows.to_parquet(path, index=False)
            self.client.log_artifact(run_id, str(path))
        if not rows.empty:
            columns = ["case", "protocol", "step", "status", "reason", *mean_columns(rows, "mlflow")]
            self._table(run_id, rows[columns], "cases.json")

    def _dataset(self, run_id: str, description: Mapping[str, Any]) -> None:
        """The test set as a dataset input: a name and one digest for every method, never the volumes."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = {"test cases": len(description["cases"]), "training cases": len(description["training_cases"])}
        dataset = Dataset(
            name=str(description["dataset"]),
            digest=str(description.get("cases_digest") or description["dataset_version"])[:36],
            source_type="tags-bench",
            source=json.dumps({"dataset": description["dataset"], "fold": description["fold"]}),
            profile=json.dumps(profile),
        )
        tags = [InputTag("mlflow.data.context", "evaluation"), InputTag("synthetic", str(description["synthetic"]))]
        self.client.log_inputs(run_id, [DatasetInput(dataset, tags)])


def search_by_tags(client: Any, experiments: list[str], tags: Mapping[str, str]) -> Iterable[Any]:
    """The active runs of some experiments that carry all these tags, the newest first.

    MLflow's filters have no way to escape a quote, so an unusual character is any character in the filter, and
    the runs that come are compared.
    """
    query = " and ".join(f"tags.`{name}` {_condition(value)}" for name, value in tags.items())
    token = None
    while True:
        page = client.search_runs(
            experiments, filter_string=query, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from (run for run in page if all(run.data.tags.get(name) == value for name, value in tags.items()))
        token = page.token
        if not token:
            return


def _condition(value: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in " -./:" else "_" for letter in value)
    return f"= '{value}'" if plain == value else f"LIKE '{plain}'"


def unit_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """What a unit has beside its curves: bounds of the mean Dice and failed rows at the last step of each protocol."""
    if rows.empty:
        return {}
    values: dict[str, float] = {}
    for record in summarise(rows).to_dict("records"):
        for name in ("dice_low", "dice_high", "failed"):
            if pd.notna(record.get(name)):
                values[f"{name}/{record['protocol']}"] = float(record[name])
    return values


def curves_of(rows: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Means over cases at every step of each protocol, `<metric>/<protocol>`, failures counted as worst.

    MLflow draws them as click curves, and its table shows the last.
    """
    if rows.empty:
        return []
    curves = []
    for step in sorted(int(step) for step in rows["step"].unique()):
        values: dict[str, float] = {}
        for record in summarise(rows[rows["step"] == step]).to_dict("records"):
            for column in mean_columns(rows, "mlflow"):
                if pd.notna(record[column]):
                    values[f"{_metric_name(column)}/{record['protocol']}"] = float(record[column])
        curves.append((step, values))
    return curves


def _metric_name(column: str) -> str:
    """MLflow allows letters, digits and _-./ and spaces in names."""
    return column.replace("@", "_at_")


def _parameters(description: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("method", "method_version", "dataset", "dataset_version", "fold", "seed", "checkpoint", "workers",
            "empty_policy", "metrics_version", "contamination")  # fmt: skip
    parameters = {key: description[key] for key in keys}
    parameters |= {f"config.{key}": value for key, value in description["config"].items()}
    return parameters | {f"budget.{key}": value for key, value in description["budget"].items()}


def _training_metrics(training: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"training/{key}": float(value)
        for key, value in training.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _duration(rows: pd.DataFrame, training: Mapping[str, Any] | None) -> float:
    """Seconds of training and of the method's own work on the cases."""
    worked = [rows[name].sum() for name in ("seconds_open", "seconds_segment") if name in rows]
    return float(sum(worked)) + float((training or {}).get("seconds_total", 0.0))


def _marked(name: str, description: Mapping[str, Any]) -> str:
    return f"{name} [synthetic]" if description["synthetic"] else name


def _synthetic_tags(description: Mapping[str, Any]) -> dict[str, str]:
    synthetic = bool(description["synthetic"])
    return {SYNTHETIC_TAG: str(synthetic).lower()} | ({NOTE_TAG: SYNTHETIC_NOTE} if synthetic else {})


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
