"""A run that is watched by MLflow as well: when units are trained and evaluated, and what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data.dataset import Case
from benchmarks.execution.datasets import Folders
from benchmarks.execution.observer import Observer
from benchmarks.execution.plan import Unit
from benchmarks.execution.training_job import checkpoint_folder
from benchmarks.execution.training_watch import curve_file
from benchmarks.results.mlflow import MlflowSink
from benchmarks.results.records import RecordStore

EVALUATION = ("evaluating", "scoring")


class Tracked:
    """Passes everything on to the observer, looks at the clock, and tells MLflow.

    Implements `benchmarks.execution.observer.Observer`.
    """

    def __init__(self, observer: Observer, sink: MlflowSink, folders: Folders) -> None:
        self._observer, self._sink, self._folders = observer, sink, folders
        self._store = RecordStore(folders.records)
        self._evaluated_since: dict[Path, float] = {}
        self._told: set[str] = set()  # trainings
        self._rows: dict[Path, pd.DataFrame] = {}
        self._trainings: dict[Path, dict[str, Any]] = {}

    # The observer

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        self._observer.hosts(rows)

    def training(self, unit: Unit, figures: Mapping[str, Any]) -> None:
        self._observer.training(unit, figures)

    def stage(self, unit: Unit, stage: str) -> None:
        if stage == "training" and unit.job is not None and not unit.job.untrained:
            curve = curve_file(checkpoint_folder(self._folders.checkpoints, unit.job))
            self._sink.follow_training(unit.description(), curve)
        if stage in EVALUATION:
            self._evaluated_since.setdefault(unit.folder, time.time())
        self._observer.stage(unit, stage)

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        self._observer.advanced(unit, finished_cases)

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        self._observer.failed(unit, case, reason)

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        self._tell_training(unit, training)
        self._observer.finished_unit(unit, training)

    # Units with all their rows

    def on_unit(self, unit: Unit, rows: pd.DataFrame, training: dict[str, Any] | None) -> None:
        """A unit is complete; see `benchmarks.execution.pool.run`."""
        self._tell_training(unit, training)
        self._rows[unit.folder] = rows
        if training:
            self._trainings[unit.folder] = training_facts(training)
            self._store.add_facts(unit.folder, {"training": self._trainings[unit.folder]})
        since = self._evaluated_since.get(unit.folder)
        times = {} if since is None else {"start": since, "end": time.time()}
        self._sink.log_unit(self.description(unit), rows, training, times)

    def description(self, unit: Unit) -> dict[str, Any]:
        """What the unit is, with the figures of its training once it has any."""
        trained = self._trainings.get(unit.folder)
        return unit.description() | ({} if trained is None else {"training": trained})

    def rows_of(self, units: Iterable[Unit]) -> list[pd.DataFrame]:
        """The rows of the units that are complete, in this order."""
        return [self._rows[unit.folder] for unit in units if unit.folder in self._rows]

    def _tell_training(self, unit: Unit, training: dict[str, Any] | None) -> None:
        """Once for each checkpoint: several units may have the same."""
        job = unit.job
        if job is None or job.untrained or training is None or job.digest() in self._told:
            return
        self._told.add(job.digest())
        folder = checkpoint_folder(self._folders.checkpoints, job)
        figures = {**training, "checkpoint": os.path.relpath(folder, self._folders.out)}
        self._sink.log_training(unit.description(), figures)
        self._sink.log_model(unit.description(), folder)


def training_facts(training: dict[str, Any]) -> dict[str, Any]:
    """What of a training stands in the leaderboard: minutes, parameters and on what it ran."""
    seconds = training.get("seconds_training", training.get("seconds_total"))
    facts = {"minutes": None if seconds is None else round(seconds / 60.0, 4)}
    kept = ("parameters", "parameters_trained", "device", "queued_share")
    return facts | {key: training[key] for key in kept if key in training}
