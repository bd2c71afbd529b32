"""A suite on Ray: train what has to be trained, evaluate case by case, resume, never lose a row.

The driver alone writes records; workers return rows. The driver can be killed at any time: cases on disk are finished,
everything else is not, and the next run of the same suite goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.execution.course import Course, NotRun, Records, missing_cases
from benchmarks.execution.crew import Machines, NoMachines
from benchmarks.execution.environments import prepare
from benchmarks.execution.newcomers import Newcomers
from benchmarks.execution.observer import Observer
from benchmarks.execution.plan import Folders, Unit, without_repeats
from benchmarks.execution.room import check_room, hosts_for, unfit_nodes
from benchmarks.execution.training import checkpoint_folder, weights_of
from benchmarks.results.records import RecordStore


@dataclass(frozen=True)
class RunOutcome:
    """What one call of `run` did.

    Attributes:
        computed: cases that were computed now.
        not_run: cases that the machine failed; they have no rows.
    """

    computed: int
    not_run: tuple[NotRun, ...] = ()


@dataclass(frozen=True)
class TrainOutcome:
    """What one call of `train_units` did, by the units' digests.

    Attributes:
        figures: of the trainings that are finished, now or earlier.
        failed: why the method failed.
        not_run: why the machine failed; the next call goes on from the last saved state.
    """

    figures: dict[str, dict[str, Any]]
    failed: dict[str, str]
    not_run: dict[str, str]


def run(
    units: list[Unit],
    folders: Folders,
    observer: Observer,
    fresh: bool = False,
    retry_failed: bool = False,
    on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None] = lambda unit, rows, training: None,
) -> RunOutcome:
    """Bring every unit to its end on the running Ray, which is needed only if `anything_due`.

    `on_unit` is called once for every unit that has all its rows, finished earlier or now, with these and the training
    figures. A unit with cases in `RunOutcome.not_run` is not finished: the next run goes on with it.

    Raises:
        UserError: a unit asks for more than the cluster has.
        Interrupted: Ctrl-C; a second one ends the process at once.
    """
    due = anything_due(units, folders, fresh, retry_failed)
    machines = Machines() if due else NoMachines()
    try:
        newcomers = Newcomers(machines.nodes, partial(hosts_for, units, folders))  # first: some join during the look
        unfit = unfit_nodes(units, folders, machines, observer)
        if due:
            check_room(units, machines, unfit)  # nothing is touched before the cluster is known to be fit
        store = RecordStore(folders.records)
        for unit in units:
            store.begin_unit(unit.folder, unit.description(), afresh=fresh)
        if units:
            store.set_current(units[0].suite, [unit.folder for unit in units])
        twins = {first.folder: rest for first, rest in without_repeats(units)}
        firsts = [first for first, _ in without_repeats(units)]

        def ended(unit: Unit, rows: pd.DataFrame, training: dict[str, Any] | None) -> None:
            on_unit(unit, rows, training)
            for twin in twins[unit.folder]:
                on_unit(twin, _shared(unit, twin, store, observer, training), training)

        one = Course(firsts, folders, observer, machines, fresh, Records(store, ended, retry_failed), newcomers)
        one.use(prepare(one.due(), _fit(machines, unfit), observer))
        one.leave_out(unfit)
        with one.interruptible():
            one.to_the_end()
        return RunOutcome(one.computed, tuple(one.not_run))
    finally:
        machines.close()


def _fit(machines: Machines, unfit: Mapping[str, str]) -> dict[str, str]:
    """The nodes that take part, name → Ray's id."""
    return {name: number for name, number in machines.nodes.items() if name not in unfit}


def anything_due(units: list[Unit], folders: Folders, fresh: bool, retry_failed: bool) -> bool:
    """Whether any case is still to be computed, and Ray is needed for it."""
    store = RecordStore(folders.records)
    return fresh or any(
        missing_cases(unit, store, retry_failed, _weights(unit, folders)) for unit, _ in without_repeats(units)
    )


def _weights(unit: Unit, folders: Folders) -> str:
    """The digest of the weights of the unit's training, if it is finished."""
    return weights_of(checkpoint_folder(folders.checkpoints, unit.job)) if unit.job is not None else ""


def _shared(
    unit: Unit, twin: Unit, store: RecordStore, observer: Observer, training: dict[str, Any] | None
) -> pd.DataFrame:
    """The rows of a unit that differs from a finished one in its title only."""
    store.share_unit(unit.folder, twin.folder, {"suite": twin.suite, "method": twin.entry.title})
    observer.advanced(twin, len(twin.cases))
    observer.stage(twin, "done")
    observer.finished_unit(twin, training)
    return store.read_unit(twin.folder)


def train_units(units: list[Unit], folders: Folders, observer: Observer, fresh: bool = False) -> TrainOutcome:
    """Train the units that are trained, side by side as the cluster has room; what is there is not made again.

    The failure of one costs the others nothing. A unit advances by 1, its training.

    Raises:
        UserError: a unit asks for more than the cluster has.
        Interrupted: Ctrl-C; a second one ends the process at once.
    """
    machines = Machines()
    try:
        newcomers = Newcomers(machines.nodes, partial(hosts_for, units, folders))
        unfit = unfit_nodes(units, folders, machines, observer)
        check_room(units, machines, unfit)
        trained = [unit for unit in units if unit.job]
        one = Course(trained, folders, observer, machines, fresh, newcomers=newcomers)
        one.use(prepare(one.due(), _fit(machines, unfit), observer))
        one.leave_out(unfit)
        with one.interruptible():
            one.to_the_end()
        figures = {way.unit.digest: way.training for way in one.ways if way.training is not None}
        return TrainOutcome(figures, one.training_failed, one.training_not_run)
    finally:
        machines.close()
