"""A call that works on a suite: planned, so that bad input ends before any work; then carried out, with MLflow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import safe_name
from benchmarks.common.identity import digest
from benchmarks.common.output import writable_folder
from benchmarks.data.dataset import Dataset
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.outcomes import NotTrained, RunResult, TrainingResult
from benchmarks.execution.plan import Folders, Unit, method_of, plan, resolve_dataset
from benchmarks.execution.pool import RunOutcome, train_units
from benchmarks.execution.pool import run as run_units
from benchmarks.execution.progress import Progress
from benchmarks.execution.suite import Suite
from benchmarks.execution.training import checkpoint_folder
from benchmarks.results.leaderboard import leaderboard_of
from benchmarks.results.mlflow_sink import MlflowSink
from benchmarks.results.records import FAILED
from benchmarks.results.tables import SYNTHETIC_BANNER

Recompute = Literal["missing", "failed", "all"]
"""What a run computes: what has no record yet; failed cases too; everything again, trained models included."""


@dataclass(frozen=True)
class Work:
    """A suite that is planned: nothing is wrong with it that can be seen beforehand."""

    suite: Suite
    folders: Folders
    units: list[Unit]
    datasets: list[Dataset]


def planned(suite: Suite, out: str | Path, progress: Progress) -> Work:
    """Read the data, writing phantoms on the way, and plan the units. Bad input ends here, before any work."""
    for entry in suite.methods:
        method_of(entry)
    folders = Folders(writable_folder(out))
    datasets = []
    for dataset_entry in suite.datasets:
        with progress.step(f"reading {dataset_entry.name}"):
            datasets.append(resolve_dataset(dataset_entry, suite.seed, folders))
    return Work(suite, folders, plan(suite, datasets, folders), datasets)


def executed(
    work: Work, tracking_uri: str | None, address: str | None, recompute: Recompute, progress: Progress
) -> RunResult:
    """Run the units, with MLflow.

    Raises:
        UserError: an unknown word for what is computed again, no Ray cluster at the address.
    """
    if recompute not in get_args(Recompute):
        raise UserError(f"recompute='{recompute}'; {nearest_name(recompute, get_args(Recompute))}")
    started = time.perf_counter()
    synthetic = any(dataset.synthetic for dataset in work.datasets)
    if synthetic:
        progress.note(SYNTHETIC_BANNER)
    descriptions = tuple(unit.description() for unit in work.units)
    sink = MlflowSink(work.folders.out, tracking_uri)
    with progress.step("starting Ray"):
        start_ray(address, progress.note)
    sink.begin(work.suite.as_plain(), digest([(unit.key, unit.digest) for unit in work.units]), synthetic, descriptions)
    try:
        outcome, rows = _run(work, sink, recompute, progress)
    except BaseException as error:
        sink.end(None, 0, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        sink.close(patience=3.0)
        raise
    failed = int((rows["status"] == FAILED).sum()) if len(rows) else 0
    if outcome.not_run:  # nothing can be ranked yet; the next call goes on in the same MLflow run
        sink.end(None, failed, "FAILED")
    else:
        sink.end(leaderboard_of(rows, descriptions), failed)
    sink.close()
    return RunResult(
        suite=work.suite.name,
        rows=rows,
        units=descriptions,
        computed=outcome.computed,
        cases=sum(len(unit.cases) for unit in work.units),
        not_run=outcome.not_run,
        seconds=time.perf_counter() - started,
        places=_places(work, sink.shown_uri),
    )


def _run(work: Work, sink: MlflowSink, recompute: Recompute, progress: Progress) -> tuple[RunOutcome, pd.DataFrame]:
    """What the pool says of the run, and all rows in the order of the plan, whichever unit finished first."""
    frames: dict[str, pd.DataFrame] = {}

    def on_unit(unit: Unit, rows: pd.DataFrame, training: dict[str, Any] | None) -> None:
        sink.log_unit(unit.description(), rows, training)
        frames[unit.key] = rows

    again = {"fresh": recompute == "all", "retry_failed": recompute == "failed"}
    with progress.units(work.units) as observer:
        outcome = run_units(work.units, work.folders, observer, on_unit=on_unit, **again)
    known = [frames[unit.key] for unit in work.units if unit.key in frames]  # a unit may not have been run
    filled = [frame for frame in known if not frame.empty]
    return outcome, pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _places(work: Work, uri: str) -> dict[str, str]:
    folders, name = work.folders, safe_name(work.suite.name)
    return {
        "MLflow store": uri,
        "records": str(folders.records / name),
        "masks and prompts of each case": str(folders.predictions / name),
        "trained models": str(folders.checkpoints),
        "logs": str(folders.logs / name),
    }


def trained(
    work: Work, tracking_uri: str | None, address: str | None, fresh: bool, progress: Progress
) -> TrainingResult:
    """Train the units that are trained, with MLflow; what fails costs the others nothing.

    Raises:
        UserError: none of the methods is trained, no Ray cluster at the address.
    """
    started = time.perf_counter()
    units = [unit for unit in work.units if unit.job is not None]
    if not units:
        raise UserError("none of these methods is trained; see `tags-bench methods`")
    with progress.step("starting Ray"):
        start_ray(address, progress.note)
    with progress.trainings(units) as observer:
        outcome = train_units(units, work.folders, observer, fresh)
    sink = MlflowSink(work.folders.out, tracking_uri)
    finished = [unit for unit in units if unit.digest in outcome.figures]
    descriptions = tuple(unit.description() for unit in finished)
    trainings = tuple(_with_checkpoint(unit, outcome.figures[unit.digest], work.folders) for unit in finished)
    for description, figures in zip(descriptions, trainings, strict=True):
        sink.log_training(description, figures)
    sink.close()
    shown = ("MLflow store", "trained models", "logs")
    places = {name: place for name, place in _places(work, sink.shown_uri).items() if name in shown}
    return TrainingResult(
        trainings,
        descriptions,
        time.perf_counter() - started,
        places,
        failed=_among(units, outcome.failed),
        not_run=_among(units, outcome.not_run),
    )


def _among(units: list[Unit], reasons: dict[str, str]) -> tuple[NotTrained, ...]:
    return tuple(NotTrained(unit.title, reasons[unit.digest]) for unit in units if unit.digest in reasons)


def _with_checkpoint(unit: Unit, figures: dict[str, Any], folders: Folders) -> dict[str, Any]:
    assert unit.job is not None
    return {**figures, "checkpoint": str(checkpoint_folder(folders.checkpoints, unit.job))}
