"""A call that works on a suite: planned, so that bad input ends before any work; then carried out, with MLflow."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import safe_name
from benchmarks.common.identity import digest
from benchmarks.common.output import writable_folder
from benchmarks.data.dataset import Dataset
from benchmarks.execution.case_files import note_case_files, note_machine
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.datasets import Folders, budget_line, data_line, dataset_of, folds_of, learns
from benchmarks.execution.outcomes import NotTrained, RunResult, TrainingResult
from benchmarks.execution.plan import Unit, looked_up_as, method_of, plan
from benchmarks.execution.pool import RunOutcome, anything_due, train_units
from benchmarks.execution.pool import run as run_units
from benchmarks.execution.progress import Progress
from benchmarks.execution.rehearsal.mark import keep_results_out
from benchmarks.execution.suite import DatasetEntry, Suite
from benchmarks.execution.tracked import Tracked
from benchmarks.execution.training_job import checkpoint_folder
from benchmarks.results.mlflow import MlflowSink, Summary, summary_of
from benchmarks.results.tables import SYNTHETIC_BANNER
from benchmarks.weights.official_files import unnamed_release

Recompute = Literal["missing", "failed", "all"]
"""What a run computes: what has no record yet; failed cases too; everything again, trained models included."""


@dataclass(frozen=True)
class Work:
    """A suite that is planned: nothing is wrong with it that can be seen beforehand."""

    suite: Suite
    folders: Folders
    units: list[Unit]
    datasets: list[Dataset]


def planned(suite: Suite, out: str | Path, progress: Progress, by_rule: Collection[str] = ()) -> Work:
    """Read the data, writing phantoms on the way, and plan the units. Bad input ends here, before any work.

    Args:
        by_rule: names of the official files whose place a stand-in of a rehearsal takes.
    """
    for entry in suite.methods:
        method_of(entry)
    folders = Folders(writable_folder(out))
    keep_results_out(folders.out, suite.rehearsal)
    datasets: list[Dataset] = []
    entries: list[DatasetEntry] = []
    for dataset_entry in suite.datasets:
        with progress.step(f"reading {dataset_entry.name}"):
            first = dataset_of(suite, dataset_entry, folders)
            folds = folds_of(dataset_entry, first)
            datasets += [first, *(dataset_of(suite, fold, folders) for fold in folds[1:])]
            entries += folds
    learners = [entry for entry in suite.methods if learns(entry) and not entry.untrained]
    for dataset in {one.name: one for one in datasets}.values():
        progress.note(data_line(dataset, [entry.title for entry in learners if entry.meets(dataset.name)]))
        for note in dataset.notes:
            progress.note(f"{dataset.name}: {note}")
    if any(not one.synthetic for one in datasets) and not all(method_of(entry).floor for entry in learners):
        progress.note(budget_line(suite))
    suite = suite.model_copy(update={"datasets": tuple(entries)})
    units = plan(suite, datasets, folders, by_rule)
    for note in dict.fromkeys(_note_of_file(unit) for unit in units):
        if note:
            progress.note(note)
    return Work(suite, folders, units, datasets)


def _note_of_file(unit: Unit) -> str:
    if unit.job is not None and not unit.job.untrained:
        return ""
    config = unit.method.configured(unit.entry.config)
    return unnamed_release(unit.method, unit.entry.title, config, looked_up_as(unit.method, unit.dataset))


def check_protocols(work: Work) -> None:
    """Raises UserError if no method of the work can follow any of its protocols: there would be nothing to rank."""
    if work.units and not any(unit.evaluation.protocols for unit in work.units):
        wanted = ", ".join(protocol.name for protocol in work.suite.protocols)
        methods = ", ".join(dict.fromkeys(unit.entry.title for unit in work.units))
        raise UserError(
            f"nothing to evaluate: {wanted}: not applicable to {methods}; `tags-bench methods` says which prompts "
            "each method takes"
        )


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
    note_case_files(work.units, work.folders)
    note_machine(work.suite.name, work.folders)
    sink = MlflowSink(work.folders.out, tracking_uri)
    again = {"fresh": recompute == "all", "retry_failed": recompute == "failed"}
    if address or anything_due(work.units, work.folders, **again):
        with progress.step("starting Ray"):
            start_ray(address, progress.note)
    sink.begin(work.suite.as_plain(), digest([(unit.key, unit.digest) for unit in work.units]), synthetic, descriptions)
    try:
        outcome, rows, descriptions = _run(work, sink, again, progress)
    except BaseException as error:
        sink.end(Summary(), "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        sink.close(patience=3.0)
        raise
    if outcome.not_run:  # nothing can be ranked yet; the next call goes on in the same MLflow run
        sink.end(Summary(), "FAILED")
    else:
        with progress.step("comparing the methods"):
            sink.end(summary_of(rows, descriptions))
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


def _run(
    work: Work, sink: MlflowSink, again: Mapping[str, bool], progress: Progress
) -> tuple[RunOutcome, pd.DataFrame, tuple[dict[str, Any], ...]]:
    """What the pool says of the run; all rows in the order of the plan, whichever unit finished first; all units."""
    with progress.units(work.units) as observer:
        tracked = Tracked(observer, sink, work.folders)
        outcome = run_units(work.units, work.folders, tracked, on_unit=tracked.on_unit, **again)
    filled = [rows for rows in tracked.rows_of(work.units) if not rows.empty]
    rows = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return outcome, rows, tuple(tracked.description(unit) for unit in work.units)


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
    sink = MlflowSink(work.folders.out, tracking_uri)
    with progress.trainings(units) as observer:
        outcome = train_units(units, work.folders, Tracked(observer, sink, work.folders), fresh)
    finished = [unit for unit in units if unit.digest in outcome.figures]
    descriptions = tuple(unit.description() for unit in finished)
    trainings = tuple(_with_checkpoint(unit, outcome.figures[unit.digest], work.folders) for unit in finished)
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
