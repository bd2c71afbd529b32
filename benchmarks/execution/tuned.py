"""A sweep as a call: on a planned unit, with MLflow while it goes on, tables and figures at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import MachineFault, UserError
from benchmarks.common.files import atomically
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.crew import Machines
from benchmarks.execution.environments import prepare
from benchmarks.execution.observer import Nobody, Observer
from benchmarks.execution.outcomes import TuningResult
from benchmarks.execution.plan import Unit
from benchmarks.execution.progress import Progress
from benchmarks.execution.room import check_room, unfit_nodes
from benchmarks.execution.tuning import Sweep, sweep_name, tune_method, write_best
from benchmarks.execution.work import Work
from benchmarks.results.mlflow import MlflowSink
from benchmarks.results.sweep import RUNNING, Trial, as_rows, best_first, importance
from benchmarks.results.sweep_figures import sweep_figures
from benchmarks.results.tables import SYNTHETIC_BANNER

TRAINED_AGAIN = (
    "the suite has `keep_best`: a run with the best setting trains it again, for it keeps the best of its validations "
    "and a trial its last step"
)


@dataclass(frozen=True)
class Points:
    """How many trials in all, and how many at a time."""

    trials: int
    concurrent: int


def tuned(
    work: Work, points: Points, tracking_uri: str | None, address: str | None, progress: Progress
) -> TuningResult:
    """Run the sweep of the one unit of the work, or what is missing of it.

    Raises:
        UserError: nothing to tune, no Ray cluster at the address, or a node of it that cannot take part.
        Interrupted: Ctrl-C; the same call goes on.
    """
    started = time.perf_counter()
    (unit,) = work.units
    assert unit.job is not None
    job = replace(unit.job, validation=tuple(work.datasets[0].learning_cases("validation", unit.fold)))
    name = sweep_name(job, unit.digest)
    folder = work.folders.out / "sweeps" / name
    sweep = Sweep(job, folder, work.folders.checkpoints)
    sweep.space()  # what cannot be searched ends here, before Ray is started
    with progress.step("starting Ray"):
        start_ray(address, progress.note)
    sweep = replace(sweep, homes=_homes(unit, work, _Hosts(progress)))
    sink = MlflowSink(work.folders.out, tracking_uri)
    description, lines = unit.description(), _Lines(points.trials, progress)

    def changed(trials: list[Trial]) -> None:
        lines.tell(trials)
        sink.log_sweep(description, trials, name, ended=False)

    try:
        with progress.step(f"{points.trials} trials of {unit.title}"):
            found = tune_method(sweep, points.trials, points.concurrent, changed)
    except BaseException:
        sink.close(patience=3.0)
        raise
    sink.log_sweep(description, sorted(found, key=lambda one: one.number), name)
    sink.close()
    best_file = folder / "best.yaml"
    write_best(best_file, job, found[0], unit.entry)
    places = {"MLflow store": sink.shown_uri, "sweep": str(folder), "best setting": str(best_file)}
    if found[0].checkpoint is not None:
        places["best model"] = str(sweep.kept_checkpoint(found[0].config))
        if sweep.is_trained_again(found[0].config):
            progress.note(TRAINED_AGAIN)
    places |= _written(found, folder, SYNTHETIC_BANNER if unit.dataset.synthetic else "", progress)
    return TuningResult(description, tuple(found), best_file, time.perf_counter() - started, places)


class _Lines:
    """A line for every trial that is over."""

    def __init__(self, number: int, progress: Progress) -> None:
        self._number, self._progress = number, progress
        self._told: set[int] | None = None

    def tell(self, trials: list[Trial]) -> None:
        over = {one.number: one for one in trials if one.status != RUNNING}
        if self._told is None:  # what an earlier call has found is no news
            self._told = set(over)
        best = best_first(list(over.values()))[0] if over else None
        for number in sorted(set(over) - self._told):
            one = over[number]
            so_far = f"best so far {best.validation_dice:.3f} (trial {best.number})" if best else ""
            figures = f"{one.status}, Dice {one.validation_dice:.3f} at rung {one.rungs}"
            self._progress.line(f"trial {number}, {len(over)} of {self._number} over: {figures}; {so_far}")
        self._told |= set(over)


class _Hosts(Nobody):
    """Lets the progress of a call show the hosts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        self._progress.hosts(rows)


def _homes(unit: Unit, work: Work, observer: Observer) -> dict[str, dict[str, Any]]:
    """For every node of the cluster the options of a Ray task in the method's environment; see `Sweep`.

    Raises:
        UserError: a node that is not fit: Tune places trials on any node.
        MachineFault: the environment cannot be had on one of them.
    """
    machines = Machines()
    try:
        check_room([unit], machines)
        unfit = unfit_nodes([unit], work.folders, machines, observer)
        nodes = dict(machines.nodes)
    finally:
        machines.close()
    if unfit:
        node, why = next(iter(unfit.items()))
        raise UserError(f"{node} cannot take part: {why}; a sweep uses every node of the cluster")
    known, name = prepare([unit], nodes, observer), unit.method.name
    problem = known.problem(name, unit.environment)
    if problem is not None:
        raise MachineFault(f"'{name}': {problem}")
    return {ray_id: known.options(name, unit.environment, node) for node, ray_id in nodes.items()}


def _written(found: list[Trial], folder: Path, note: str, progress: Progress) -> dict[str, str]:
    """The tables and figures, by what they are."""
    tables = {"trials": pd.DataFrame(as_rows(found)), "importance": importance(found)}
    places = {}
    for name, table in tables.items():
        if not table.empty:
            with atomically(folder / f"{name}.csv") as partial:
                table.to_csv(partial, index=False)
            places[name] = str(folder / f"{name}.csv")
    try:
        figures: list[Any] = sweep_figures(found, folder, note)
    except UserError as error:
        progress.note(str(error))
        figures = []
    return places | ({"figures": ", ".join(map(str, figures))} if figures else {})
