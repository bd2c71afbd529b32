"""Messages → runs of an MLflow server. Each is written so that writing it again changes nothing.

One experiment for each suite. In it one parent run for each plan and output folder, and below it one child for each
unit and protocol (a row of the leaderboard) and one for each training; all are found again by tags. A child carries
the digest of the message that it was made of, so that what is there is not sent again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from benchmarks.common.identity import digest
from benchmarks.results.leaderboard import mean_columns
from benchmarks.results.mlflow import values
from benchmarks.results.mlflow.models import Models
from benchmarks.results.mlflow.outbox import Message
from benchmarks.results.mlflow.runs import Runs, Warn, milliseconds
from benchmarks.results.mlflow.view import experiment_note, run_note, saved_views, written_at
from benchmarks.results.sweep import METRIC, RUNNING, Trial, as_rows, best_first, trial_of

BOARD = "leaderboard.json"
RANKED = ("dataset", "target", "protocol", "method")


class MlflowWriter:
    """A connection to one server that writes the messages of one output folder."""

    def __init__(self, uri: str, out: Path, artifacts: Path | None, warn: Warn) -> None:
        """Connect.

        Args:
            out: the output folder, in which models lie.
            artifacts: where a new experiment of a local store keeps its artifacts.

        Raises:
            Exception: whatever MLflow and its store raise if the server cannot be used.
        """
        self.runs = Runs(uri, artifacts, warn)
        self.client = self.runs.client
        self.models = Models(self.runs, remote=uri.startswith("http"))
        self._out = out
        self._parents: dict[tuple[str, str, str], str] = {}
        self._targets: dict[tuple[str, str], set[str]] = {}  # experiment and data set → what its runs are of

    def send(self, message: Message) -> None:
        """Write one message. Raises whatever MLflow raises if that fails; it can then be sent again."""
        writers = {
            "begin": self._begin,
            "unit": self._unit,
            "training": self._training,
            "model": self._model,
            "sweep": self._sweep,
            "file": self._file,
            "end": self._end,
        }
        writers[message.kind](message)

    def _place(self, experiment: str, description: Mapping[str, Any]) -> str:
        """The data set of a unit, as it stands in names; with the target where the experiment has several of it."""
        dataset, target = str(description["dataset"]), str(description["target"]["name"])
        if (experiment, dataset) not in self._targets:
            found = self.runs.search(experiment, {values.DATASET_TAG: dataset})
            named = {run.data.tags.get(values.TARGET_TAG, "") for run in found}
            self._targets[experiment, dataset] = named - {""}  # trainings of earlier versions do not say theirs
        known = self._targets[experiment, dataset]
        known.add(target)
        return dataset if len(known) == 1 else f"{dataset}, {target}"

    # The parent of a plan

    def _parent(self, plan: Mapping[str, Any]) -> str:
        """The run of a plan in an output folder; made if there is none."""
        identity = (str(plan["suite"]), str(plan["plan"]), str(plan["out"]))  # suites of equal units have one plan
        if identity not in self._parents:
            experiment = self.runs.experiment(identity[0])
            tags = {values.PLAN_TAG: identity[1], values.OUT_TAG: identity[2]}
            found = self.runs.find(experiment, tags)
            if found is None:
                tags |= {
                    values.KIND_TAG: values.SUITE,
                    values.SUITE_TAG: str(plan["suite"]),
                    values.USER_TAG: str(plan["user"]),
                } | values.synthetic_tags(plan)
                name = values.marked(f"{plan['suite']}, leaderboard", plan)
                self._parents[identity] = self.runs.create(experiment, name, tags)
            else:
                self._parents[identity] = str(found.info.run_id)
        return self._parents[identity]

    def _begin(self, message: Message) -> None:
        content = message.content
        plan = content["plan"]
        self._end_abandoned(plan)
        for unit in content["units"]:
            self._place(self.runs.experiment(str(plan["suite"])), unit)  # all are known before the first has a name
        parent = self._parent(plan)
        called_at = str(content["called_at"])
        if self.client.get_run(parent).data.tags.get(values.ENDED_TAG) != called_at:  # else its end was sent before it
            self.client.update_run(parent, status="RUNNING")
        self.runs.tags(parent, {values.CALLED_TAG: called_at, **origin_tags(content)})
        self.runs.params(parent, {"suite": plan["suite"], "seed": plan["seed"], "plan": plan["plan"]})
        self.runs.json(parent, content["suite"], "suite.json")
        self.runs.json(parent, content["units"], "units.json")
        self.runs.json(parent, content["environment"], "environment.json")
        self._show(parent, str(plan["suite"]), values.tolerances_of(content["units"]), message)

    def _show(self, parent: str, suite: str, tolerances_mm: Sequence[float], message: Message) -> bool:
        """Turn the views of the experiment to a run, unless a message that was written later has; whether they are."""
        experiment = self.runs.experiment(suite)
        views = saved_views(tolerances_mm, parent, milliseconds(message.written_at))
        there = self.client.get_experiment(experiment).tags
        if any(written_at(there[name]) > written_at(view) for name, view in views.items() if name in there):
            return False
        for name, view in views.items():
            self.client.set_experiment_tag(experiment, name, view)
        return True

    def _end_abandoned(self, plan: Mapping[str, Any]) -> None:
        """Runs of this output folder that a crash or an interruption left running are over."""
        for run in self.runs.search(self.runs.experiment(str(plan["suite"])), {values.OUT_TAG: str(plan["out"])}):
            if run.info.status == "RUNNING" and run.data.tags.get(values.PLAN_TAG) != plan["plan"]:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _end(self, message: Message) -> None:
        content = message.content
        plan = content["plan"]
        experiment, parent = self.runs.experiment(str(plan["suite"])), self._parent(plan)
        self.runs.metrics(parent, content["figures"], milliseconds(message.written_at))
        if message.rows is not None and not message.rows.empty:
            self.runs.table(parent, message.rows, BOARD)
            self.client.log_text(parent, content["tables"], "leaderboard.md")
            for run in self.runs.children(experiment, parent).values():
                self._rank(run, message.rows)
            self.runs.changed(parent)
            self.client.set_tag(parent, values.NOTE_TAG, run_note(content["note"], experiment, parent))
            if self._show(parent, str(plan["suite"]), content.get("tolerances_mm", ()), message):
                note = experiment_note(content["note"], plan, experiment, parent)
                self.client.set_experiment_tag(experiment, values.NOTE_TAG, note)
        if content["status"] != "FINISHED":
            self._end_abandoned(plan)  # trainings that were cut off
        self.client.set_tag(parent, values.ENDED_TAG, str(content.get("called_at", "")))
        self.client.set_terminated(parent, str(content["status"]))

    def _rank(self, run: Any, board: pd.DataFrame) -> None:
        """Put rank and verdict of a row of the leaderboard into its run."""
        place = [run.data.tags.get(f"tagsbench.{column}") for column in RANKED]
        mine = board[(board[list(RANKED)].astype(str) == place).all(axis=1)]
        if mine.empty:
            return
        rank, verdict = mine.iloc[0]["rank"], str(mine.iloc[0]["verdict"])
        if pd.notna(rank) and run.data.metrics.get("rank") != float(rank):
            self.client.log_metric(run.info.run_id, "rank", float(rank))
        if verdict != run.data.tags.get(values.VERDICT_TAG, ""):
            self.client.set_tag(run.info.run_id, values.VERDICT_TAG, verdict)

    def _file(self, message: Message) -> None:
        """An artifact of the run of a suite, under one name: the newest takes the place of the one before."""
        name, content = PurePosixPath(message.content["name"]), str(message.content["digest"])
        parent, tag = self._parent(message.content["plan"]), f"{values.FILE_TAG}{name}"
        if message.file is None or self.client.get_run(parent).data.tags.get(tag) == content:
            return
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / name.name
            shutil.copyfile(message.file, named)
            self.client.log_artifact(parent, str(named), str(name.parent) if name.parent.name else None)
        self.client.set_tag(parent, tag, content)

    # Rows of the leaderboard

    def _unit(self, message: Message) -> None:
        description, plan = message.content["description"], message.content["plan"]
        experiment, parent = self.runs.experiment(str(plan["suite"])), self._parent(plan)
        for protocol, track in values.protocols_of(description).items():
            self._result(message, experiment, parent, protocol, track)

    def _result(self, message: Message, experiment: str, parent: str, protocol: str, track: str) -> None:
        """One unit under one protocol."""
        description = message.content["description"]
        all_rows = message.rows if message.rows is not None else pd.DataFrame(columns=["protocol"])
        chosen = all_rows["protocol"] == protocol
        rows = all_rows[chosen]
        key, content = values.result_key(message.key, protocol), digest([message.digest, protocol])
        found = self.runs.child(experiment, parent, key)
        if found is not None and found.data.tags.get(values.CONTENT_TAG) == content:
            return
        start, end = _span(message, values.seconds_of_work(rows))
        tags = {
            values.PARENT_TAG: parent,
            values.KIND_TAG: values.RESULT,
            values.KEY_TAG: key,
            values.UNIT_TAG: str(description["unit"]),
            values.SUITE_TAG: str(description["suite"]),
            values.CHECKPOINT_TAG: str(description["checkpoint"]),
            values.OUT_TAG: str(message.content["plan"]["out"]),
            "tagsbench.method": str(description["method"]),
            values.DATASET_TAG: str(description["dataset"]),
            values.TARGET_TAG: str(description["target"]["name"]),
            "tagsbench.protocol": protocol,
            "track": track,
            "device": values.device_of(rows),
        } | values.synthetic_tags(description)
        tags |= origin_tags(message.content)
        if found is None:
            name = f"{description['method']} · {self._place(experiment, description)} · {protocol}"
            name += f" · fold {description['fold']}" if description["fold"] else ""
            run_id = self.runs.create(experiment, values.marked(name, description), tags, start)
        else:
            run_id = str(found.info.run_id)
            self.runs.tags(run_id, tags)
        self.runs.params(run_id, values.parameters_of(description, protocol))
        when = milliseconds(end)
        for step, means in values.curves_of(rows):
            self.runs.metrics(run_id, means, when, step)
        self.runs.metrics(run_id, values.training_costs(message.content["training"]), when)
        self.runs.json(run_id, description, "unit.json")
        self.runs.parquet(run_id, all_rows, chosen, "records.parquet")
        if not rows.empty:
            columns = ["case", "step", "status", "reason", *mean_columns(rows, "mlflow")]
            self.runs.table(run_id, rows[columns], "cases.json")
        self.runs.dataset(run_id, description)
        self.models.link_result(experiment, run_id, description, str(message.content["plan"]["out"]))
        self._rank_late(parent, run_id)
        self.client.set_tag(run_id, values.CONTENT_TAG, content)
        self.client.set_terminated(run_id, "FINISHED", when)
        self.runs.changed(parent)

    def _rank_late(self, parent: str, run_id: str) -> None:
        """A row that arrives after the leaderboard, because messages were kept, takes its rank from it."""
        if values.ENDED_TAG not in self.client.get_run(parent).data.tags:
            return
        if BOARD in {entry.path for entry in self.client.list_artifacts(parent)}:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(self.client.download_artifacts(parent, BOARD, folder))
                stored = json.loads(path.read_text(encoding="utf-8"))
            self._rank(self.client.get_run(run_id), pd.DataFrame(stored["data"], columns=stored["columns"]))

    # Trainings, models and sweeps

    def _training(self, message: Message) -> None:
        """A training that is over, or what its curve says so far."""
        content = message.content
        description, figures = content["description"], content["training"]
        experiment = self.runs.experiment(str(description["suite"]))
        tags = values.identity_tags(values.TRAINING, description, content["out"])
        found = self.runs.find(experiment, tags)
        whole = "" if found is None else found.data.tags.get(values.CONTENT_TAG, "")
        if whole and not _is_of_training(message, found):
            found = None  # the same job was trained afresh
        if found is not None and content.get("plan") and values.PARENT_TAG not in found.data.tags:
            # a call without rows trained it; the first run that makes use of it takes it in
            self.client.set_tag(found.info.run_id, values.PARENT_TAG, self._parent(content["plan"]))
        if found is not None and whole:
            return
        start, end = _span(message, float(figures.get("seconds_total", 0.0)))
        tags |= {
            "tagsbench.method": str(description["method"]),
            values.DATASET_TAG: str(description["dataset"]),
            values.TARGET_TAG: str(description["target"]["name"]),
        }
        tags |= values.synthetic_tags(description) | origin_tags(content)
        if content.get("plan"):
            tags[values.PARENT_TAG] = self._parent(content["plan"])
        if found is None:
            place = self._place(experiment, description)
            name = values.marked(f"{description['method']} · {place} · training", description)
            run_id = self.runs.create(experiment, name, tags, start)
            began = milliseconds(start)
        else:
            run_id, began = str(found.info.run_id), int(found.info.start_time)
        parameters = {
            key: description[key] for key in ("method", "dataset", "fold", "checkpoint") if key in description
        }
        self.runs.params(run_id, parameters | {f"config.{key}": value for key, value in figures["config"].items()})
        self.runs.points(run_id, _curve_points(figures.get("curve", []), began))
        if not content["finished"]:
            if found is not None and found.info.status != "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
            return
        self.runs.metrics(run_id, values.training_metrics(figures), milliseconds(end))
        self.runs.json(run_id, figures, "training.json")
        self.runs.json(run_id, content["environment"], "environment.json")
        self.client.set_tag(run_id, values.CONTENT_TAG, message.digest)
        self.client.set_terminated(run_id, "FINISHED", milliseconds(end))

    def _model(self, message: Message) -> None:
        description = message.content["description"]
        experiment = self.runs.experiment(str(description["suite"]))
        folder = self._out / message.content["folder"]
        if folder.is_dir():  # else it was deleted since, and there is nothing to log
            self.models.log(experiment, description, str(message.content["out"]), folder)

    def _sweep(self, message: Message) -> None:
        """A sweep so far, or how it ended."""
        description, ended = message.content["description"], message.content["ended"]
        trials = [trial_of(plain) for plain in message.content["trials"]]
        experiment = self.runs.experiment(str(description["suite"]))
        found = self.runs.find(experiment, {values.SWEEP_TAG: message.key})
        if found is not None and found.data.tags.get(values.CONTENT_TAG) == message.digest:
            return
        if found is None:
            place = self._place(experiment, description)
            name = values.marked(f"{description['method']} · {place} · sweep", description)
            tags = {values.SWEEP_TAG: message.key, values.KIND_TAG: values.SWEEP}
            tags |= values.synthetic_tags(description) | origin_tags(message.content)
            parent = self.runs.create(experiment, name, tags)
        else:
            parent = str(found.info.run_id)
        self.runs.changed(parent)  # an earlier message of the same sender has made some
        for trial in trials:
            self._trial(experiment, parent, trial, message)
        self._best_so_far(parent, trials, milliseconds(message.written_at))
        if ended:
            self.runs.json(parent, as_rows(best_first(trials)), "trials.json")
            self.runs.json(parent, message.content["environment"], "environment.json")
            self.client.set_tag(parent, values.CONTENT_TAG, message.digest)
            self.client.set_terminated(parent, "FINISHED", milliseconds(message.written_at))

    def _best_so_far(self, parent: str, trials: Sequence[Trial], at: int) -> None:
        best = next((one for one in best_first(trials) if one.has_result), None)
        if best is None:
            return
        self.client.set_tag(parent, "best.trial", str(best.number))  # a parameter could not change while it goes on
        for knob, value in best.config.items():
            self.client.set_tag(parent, f"best.{knob}", str(value))
        over = sum(one.status != RUNNING for one in trials)
        figures = {"best_validation_dice": best.validation_dice, "trials": len(trials), "trials_over": over}
        self.runs.points(parent, [(name, value, at, over) for name, value in figures.items()])

    def _trial(self, experiment: str, parent: str, trial: Trial, message: Message) -> None:
        """A run with a point for each rung."""
        key, description = str(trial.number), message.content["description"]
        child = self.runs.child(experiment, parent, key)
        if child is None:
            tags = {values.PARENT_TAG: parent, values.KIND_TAG: values.TRIAL, values.KEY_TAG: key}
            tags |= values.synthetic_tags(description)
            name = f"{description['method']} · {description['dataset']} · trial {key}"
            start = message.written_at - trial.seconds
            run_id, known = self.runs.create(experiment, values.marked(name, description), tags, start), ""
        else:
            run_id, known = str(child.info.run_id), child.data.tags.get(values.CONTENT_TAG, "")
        content = digest(trial.as_plain())
        if content == known:
            return
        self.runs.params(run_id, trial.config)
        there = {point.step for point in self.client.get_metric_history(run_id, METRIC)}
        self.runs.points(run_id, _rung_points(trial, there))
        self.client.set_tag(run_id, "status", trial.status)
        if trial.status != RUNNING:
            totals = {"rungs": trial.rungs, "seconds_total": trial.seconds}
            self.runs.metrics(run_id, totals, milliseconds(message.written_at))
            status = "FINISHED" if trial.has_result else "FAILED"
            self.client.set_terminated(run_id, status, milliseconds(message.written_at))
        self.client.set_tag(run_id, values.CONTENT_TAG, content)


def _span(message: Message, seconds: float) -> tuple[float, float]:
    """When what is told began and ended; without a clock it ended when it was told and took so many seconds."""
    end = message.times.get("end", message.written_at)
    return message.times.get("start", end - seconds), end


def _is_of_training(message: Message, training: Any) -> bool:
    """Whether a message tells of the training of a run that is over: the same again, or its curve, sent after its end.

    Digests of earlier versions hold for one plan only: there the figures tell, to the last digit of its seconds.
    """
    if not message.content["finished"]:
        return milliseconds(message.written_at) <= (training.info.end_time or 0)
    figures = values.training_metrics(message.content["training"])
    return training.data.tags[values.CONTENT_TAG] == message.digest or (
        bool(figures) and figures.items() <= training.data.metrics.items()
    )


def _rung_points(trial: Trial, there: Collection[int]) -> list[tuple[str, Any, int, int]]:
    """A point for each figure of each rung that is not there yet, at the time that the rung was reached."""
    return [
        (name, value, milliseconds(point["at"]), int(point["rung"]))
        for point in trial.curve
        if int(point["rung"]) not in there
        for name, value in point.items()
        if name not in ("rung", "at")
    ]


def _curve_points(curve: Any, began: int) -> list[tuple[str, Any, int, int]]:
    """The points of a training curve. Their times follow from the run's own start: told again, they are the same."""
    return [
        (f"train/{key}", value, began + milliseconds(float(point.get("seconds", 0.0))), int(point["step"]))
        for point in curve
        for key, value in point.items()
        if key not in ("step", "progress", "seconds")
    ]


def origin_tags(content: Mapping[str, Any]) -> dict[str, str]:
    """Who made a run, with which code, on which machine; those that MLflow knows under its own names."""
    environment = content.get("environment", {})
    packages = environment.get("packages", {})
    tags = {
        "mlflow.user": content.get("user", ""),
        "mlflow.source.name": content.get("source", ""),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.get("git_commit", ""),
        "host": content.get("host", ""),
        "python": environment.get("python", ""),
    } | {name: packages.get(name, "") for name in ("tags-bench", "torch", "ray")}
    return {name: str(value) for name, value in tags.items() if value and value not in ("unknown", "missing")}
