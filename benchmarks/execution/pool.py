"""A suite on Ray: train what has to be trained, evaluate case by case, resume, never lose a row.

The driver alone writes records; workers return rows. What is to be done next is decided by `scheduler`, carried out
by `crew`, and this module knows what it means: which rows are due, who waits for which training, when a unit is at its
end. The driver can be killed at any time: cases on disk are finished, everything else is not, and the next run of the
same suite goes on from there.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from benchmarks.common.errors import UserError, one_line
from benchmarks.common.identity import digest
from benchmarks.data.dataset import Case
from benchmarks.execution.capacity import fits
from benchmarks.execution.crew import CaseWork, ClusterLost, Crew, Machines, TrainingWork
from benchmarks.execution.evaluate import failed_case
from benchmarks.execution.orders import Action, Assign, AvoidNode, Commit, Fail, Item, Key, Need, SetAside, StartWorker
from benchmarks.execution.plan import Folders, Unit, without_repeats
from benchmarks.execution.preflight import look_at_hosts
from benchmarks.execution.scheduler import Scheduler
from benchmarks.execution.training import TrainingJob, checkpoint_folder, finished, run_job
from benchmarks.execution.worker import Loading
from benchmarks.results.records import FAILED, RecordStore

logger = logging.getLogger("tags_bench")

LOAD_LIMIT_SECONDS = 1800.0  # for a method to be ready, once its process is up
NODES_EVERY_SECONDS = 5.0
UNWRITTEN_IN_A_ROW = 3  # records that cannot be written: the disk is full, no need to go on


class Observer(Protocol):
    """Who watches a run: progress bars in a terminal, or nobody."""

    def stage(self, unit: Unit, stage: str) -> None:
        """The unit entered a stage: "training", "loading", "evaluating", "scoring", "not run", "done"."""

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        """So many cases of the unit are finished by now."""

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        """A case of the unit has become failed rows."""

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        """All rows of the unit are on disk."""


@dataclass(frozen=True)
class NotRun:
    """A case that the machine, not the method, kept from being evaluated; the next run takes it up."""

    unit: str
    case: str
    reason: str


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


class Interrupted(KeyboardInterrupt):
    """The run was interrupted by hand. The message says what is kept and how to go on."""


def run(
    units: list[Unit],
    folders: Folders,
    observer: Observer,
    fresh: bool = False,
    retry_failed: bool = False,
    on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None] = lambda unit, rows, training: None,
) -> RunOutcome:
    """Bring every unit to its end on the running Ray.

    `on_unit` is called once for every unit that has all its rows, finished earlier or now, with these and the training
    figures. A unit with cases in `RunOutcome.not_run` is not finished: the next run goes on with it.

    Raises:
        UserError: a unit asks for more than the cluster has.
        Interrupted: Ctrl-C; a second one ends the process at once.
    """
    machines = Machines()
    try:
        check_room(units, machines)
        unfit = unfit_nodes(units, folders, machines)  # nothing is touched before the cluster is known to be fit
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

        one = _Run(firsts, folders, observer, machines, fresh, store, retry_failed, ended)
        one.leave_out(unfit)
        with one.interruptible():
            one.to_the_end()
        return RunOutcome(one.computed, tuple(one.not_run))
    finally:
        machines.close()


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

    The failure of one costs the others nothing.

    Raises:
        UserError: a unit asks for more than the cluster has.
        Interrupted: Ctrl-C; a second one ends the process at once.
    """
    machines = Machines()
    try:
        check_room(units, machines)
        one = _Run([unit for unit in units if unit.job], folders, observer, machines, fresh)
        one.leave_out(unfit_nodes(units, folders, machines))
        with one.interruptible():
            one.to_the_end()
        figures = {way.unit.digest: way.training for way in one.ways if way.training is not None}
        return TrainOutcome(figures, one.training_failed, one.training_not_run)
    finally:
        machines.close()


def train_now(unit: Unit, folders: Folders, fresh: bool = False) -> dict[str, Any]:
    """Train one unit on the running Ray, and wait for it; a checkpoint that is there is made again if `fresh`.

    Raises:
        RuntimeError: it failed, or the machine kept it from being finished.
    """
    assert unit.job is not None
    outcome = train_units([unit], folders, Nobody(), fresh)
    if unit.digest in outcome.figures:
        return outcome.figures[unit.digest]
    raise RuntimeError((outcome.failed | outcome.not_run)[unit.digest])


def check_room(units: Iterable[Unit], machines: Machines | None = None) -> None:
    """Refuse what the cluster could never hold.

    Raises:
        UserError: the unit, what it asks for, and what there is.
    """
    nodes = (machines or Machines()).now()
    for unit in units:
        for need in (_training_need(unit.job) if unit.job else Need(), _need(unit)):
            if not fits(nodes, need):
                times = f"{need.workers} workers with " if need.workers > 1 else ""
                here = max(nodes, key=lambda node: (node.gpus, node.cpus))
                raise UserError(
                    f"'{unit.title}' asks for {times}{need.cpus:g} CPU and {need.gpus:g} GPU; the cluster has "
                    f"{sum(node.cpus for node in nodes):g} CPU and {sum(node.gpus for node in nodes):g} GPU on "
                    f"{len(nodes)} node(s), the largest {here.cpus:g} CPU and {here.gpus:g} GPU; "
                    "lower --cpus, --gpus or --workers"
                )


def unfit_nodes(units: list[Unit], folders: Folders, machines: Machines) -> dict[str, str]:
    """Why which nodes of a cluster cannot take part; one machine alone is not looked at.

    Raises:
        UserError: no node can.
    """
    nodes = machines.nodes
    if len(nodes) < 2 or not units:
        return {}
    data_file = next((unit.cases[0].image for unit in units if unit.cases), None)
    hosts = look_at_hosts(nodes, folders.out, sorted({unit.method.name for unit in units}), data_file)
    unfit = {host.node: "; ".join(host.problems) for host in hosts if host.problems}
    if len(unfit) == len(nodes):
        told = " | ".join(f"{node}: {why}" for node, why in unfit.items())
        raise UserError(f"no node of the cluster can take part; {told}")
    return unfit


class Nobody:
    """An observer that looks at nothing."""

    def stage(self, unit: Unit, stage: str) -> None:
        pass

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        pass

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        pass

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        pass


def _need(unit: Unit) -> Need:
    """Of one process that evaluates; floors never hold a GPU."""
    return Need(unit.cpus, 0.0 if unit.method.floor else unit.gpus)


def _training_need(job: TrainingJob) -> Need:
    return Need(job.budget.cpus, job.budget.gpus, job.workers)


SCORING = Key("scoring", Need(1.0), load_limit=LOAD_LIMIT_SECONDS)


@dataclass
class _Way:
    """How far a unit has come."""

    number: int
    unit: Unit
    key: Key
    checkpoint: Path | None
    missing: dict[str, Case] = field(default_factory=dict)
    without: list[Case] = field(default_factory=list)  # not run
    training: dict[str, Any] | None = None
    trained: bool = True  # or needs no training
    awaiting: list[Case] = field(default_factory=list)  # its training
    stage: str = ""
    ended: bool = False
    reference: Any = None  # to its `Evaluation`

    def evaluation(self) -> Any:
        import ray

        if self.reference is None:
            self.reference = ray.put(self.unit.evaluation)
        return self.reference


class _Run:
    """All units on their way; without a store they are only trained."""

    def __init__(
        self,
        units: list[Unit],
        folders: Folders,
        observer: Observer,
        machines: Machines,
        fresh: bool,
        store: RecordStore | None = None,
        retry_failed: bool = False,
        on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None] = lambda unit, rows, training: None,
    ) -> None:
        self.folders, self.observer, self.fresh, self.store = folders, observer, fresh, store
        self.on_unit, self.machines = on_unit, machines
        self.computed = 0
        self.not_run: list[NotRun] = []
        self.training_failed: dict[str, str] = {}
        self.training_not_run: dict[str, str] = {}
        self.loadings: dict[Any, Loading] = {SCORING.name: Loading(folders.logs / "scoring.log")}
        self.ways = [self._way(number, unit, retry_failed) for number, unit in enumerate(units)]
        self.trainees: dict[str, list[_Way]] = {}
        self.by_key: dict[Key, list[_Way]] = defaultdict(list)
        for way in self.ways:
            self.by_key[way.key].append(way)
        self.scheduler = Scheduler(machines.now(), time.monotonic())
        self.crew = Crew(self.scheduler, machines, self.loadings)
        self._writer = ThreadPoolExecutor(1)  # reads the label of a case that failed, to know its worst values
        self._failing: list[tuple[_Way, Case, Future[list[dict[str, Any]]]]] = []
        self._unwritten = 0
        self._giving_up = False

    def leave_out(self, unfit: Mapping[str, str]) -> None:
        """Give these nodes no work."""
        for node, why in unfit.items():
            self._carry_out(self.scheduler.avoid(node, f"{node} cannot take part: {why}", time.monotonic()))

    def to_the_end(self) -> None:
        """Until every unit is at its end.

        Raises:
            KeyboardInterrupt: Ctrl-C; while the processes are ended, another one ends this one at once.
        """
        usual: Any = None
        try:
            for way in self.ways:
                self._begin(way)
            ticked = looked = 0.0
            while self.scheduler.outstanding or self._failing:
                self._carry_out(self.crew.wait(0.05 if self._failing else 1.0))
                self._write_failed()
                now = time.monotonic()
                if now - ticked >= 1.0:
                    ticked = now
                    self._carry_out(self.scheduler.tick(now))
                if now - looked >= NODES_EVERY_SECONDS:
                    looked = now
                    self._carry_out(self.scheduler.set_nodes(self.machines.now(), now))
        except ClusterLost as lost:
            self._give_up(str(lost))
        except KeyboardInterrupt:
            logger.warning("%s; once more to end at once", self._kept())
            if threading.current_thread() is threading.main_thread():
                usual = signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
            raise
        finally:
            self._writer.shutdown(wait=False, cancel_futures=True)
            if not _is_lost(self.machines):
                self.crew.stop_all()
            if usual is not None:
                signal.signal(signal.SIGINT, usual)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turns Ctrl-C into an `Interrupted` that says what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(self._kept()) from None

    def _kept(self) -> str:
        total = sum(len(way.unit.cases) for way in self.ways)
        left = sum(len(way.missing) for way in self.ways)
        kept = f"{total - left} of {total} cases are finished and kept" if self.store else "what is trained is kept"
        return f"interrupted: {kept} in {self.folders.out}; the same command goes on from there"

    def _give_up(self, reason: str) -> None:
        """Without a cluster, or a disk to write to, whatever is left is not run."""
        self._giving_up = True
        for action in self.scheduler.abandon(reason):
            if isinstance(action, SetAside):
                self._set_aside(action.item, reason)
        self._write_failed(wait=True)
        for way in self.ways:
            if way.missing:  # results that had come and could not be written
                self._leave_out(way, list(way.missing.values()), reason)

    # The units' way -------------------------------------------------------------------------------------------------

    def _way(self, number: int, unit: Unit, retry_failed: bool) -> _Way:
        checkpoint = checkpoint_folder(self.folders.checkpoints, unit.job) if unit.job else None
        need = _need(unit)
        name = digest([unit.method.name, unit.entry.config, str(checkpoint), need.cpus, need.gpus])
        self.loadings.setdefault(
            name, Loading(unit.log, unit.method.name, unit.entry.config, checkpoint, unit.cpus, need.gpus)
        )
        ahead = 2 if need.gpus > 0 and need.cpus > 1 else 1  # load and score beside the GPU, never beside a CPU method
        way = _Way(number, unit, Key(name, need, load_limit=LOAD_LIMIT_SECONDS, ahead=ahead), checkpoint)
        if self.store is not None and unit.evaluation.protocols:
            ready = self.store.finished(unit.folder, [case.case_id for case in unit.cases], retry_failed)
            way.missing = {case.case_id: case for case in unit.cases if case.case_id not in ready}
        if unit.job is not None and checkpoint is not None:
            way.trained = finished(checkpoint) and not self.fresh
            if way.trained:
                way.training = run_job(unit.job, checkpoint)
        return way

    def _begin(self, way: _Way) -> None:
        self._advanced(way)
        kept = way.unit.evaluation.predictions
        if self.store is None:
            self._train(way)
        elif not way.missing:
            self._end(way)
        elif kept is not None and kept.is_dir() and not self.fresh:
            self._submit(self._items(way, list(way.missing.values()), score_only=True))
        else:
            self._compute(way, list(way.missing.values()))

    def _compute(self, way: _Way, cases: list[Case]) -> None:
        """Predict and score; after the training if that is still to be done."""
        failed, not_run = (told.get(way.unit.digest) for told in (self.training_failed, self.training_not_run))
        if way.trained:
            self._submit(self._items(way, cases, score_only=False))
        elif failed is not None:
            self._write_untrained(way, cases, failed)
        elif not_run is not None:
            self._leave_out(way, cases, f"not trained: {not_run}")
        else:
            way.awaiting += cases
            self._train(way)

    def _items(self, way: _Way, cases: list[Case], score_only: bool) -> list[Item]:
        unit = way.unit
        key = SCORING if score_only else way.key
        return [
            Item(
                key,
                CaseWork(way.number, case, score_only, way.evaluation, unit.log),
                length=max(1.0, float(_size(case))) * unit.rows_per_case,
                limit=unit.case_timeout_seconds,
                place=int(digest(str(case.image))[:8], 16),
            )
            for case in cases
        ]

    def _train(self, way: _Way) -> None:
        job = way.unit.job
        if way.trained or job is None or way.checkpoint is None:
            return
        trainees = self.trainees.get(job.digest())
        if trainees is None:
            self.trainees[job.digest()] = [way]
            key = Key(("training", job.digest()), _training_need(job), first=True, resumes=True)
            self._submit([Item(key, TrainingWork(job, way.checkpoint, way.unit.log, self.folders.cache, self.fresh))])
        elif way not in trainees:
            trainees.append(way)

    def _submit(self, items: list[Item]) -> None:
        self._carry_out(self.scheduler.submit(items, time.monotonic()))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Commit(worker, item):
                    self._take(item, self.crew.result(worker, item))
                case Fail(item, reason):
                    self._fail(item, reason)
                case SetAside(item, reason):
                    self._set_aside(item, reason)
                case AvoidNode(node, reason):
                    logger.warning("%s is left alone: %s", node, reason)
                case _:
                    self._tell_stage(action)
                    self.crew.carry_out(action)

    def _tell_stage(self, action: Action) -> None:
        if isinstance(action, StartWorker):
            for way in self.by_key.get(action.key, []):
                if way.missing and way.stage != "evaluating" and way.trained:
                    self._stage(way, "loading")
        elif isinstance(action, Assign) and isinstance(action.item.work, CaseWork):
            work = action.item.work
            self._stage(self.ways[work.unit], "scoring" if work.score_only else "evaluating")
        elif isinstance(action, Assign) and isinstance(action.item.work, TrainingWork):
            for way in self.trainees[action.item.work.job.digest()]:
                self._stage(way, "training")

    # What became of an item -----------------------------------------------------------------------------------------

    def _take(self, item: Item, result: Any) -> None:
        work = item.work
        if isinstance(work, TrainingWork):
            if isinstance(result, Exception):
                self._fail(item, one_line(result)[:400])
                return
            for way in self.trainees.pop(work.job.digest()):
                way.training, way.trained = result, True
                cases, way.awaiting = way.awaiting, []
                if self.store is None:
                    self._end(way)
                else:
                    self._compute(way, cases)
            return
        assert isinstance(work, CaseWork)
        way = self.ways[work.unit]
        if work.score_only and not isinstance(result, list):
            self._compute(way, [work.case])  # no mask, or one that cannot be read
        elif isinstance(result, Exception):
            self._write_as_failed(way, work.case, result)
        else:
            self._write(way, work.case, result)

    def _fail(self, item: Item, reason: str) -> None:
        work = item.work
        if isinstance(work, TrainingWork):
            for way in self.trainees.pop(work.job.digest()):
                self.training_failed[way.unit.digest] = reason
                cases, way.awaiting = way.awaiting, []
                self._write_untrained(way, cases, reason)
                if self.store is None:
                    self._end(way)
            return
        assert isinstance(work, CaseWork)
        late = reason.startswith("no result within")
        error = TimeoutError(reason) if late else RuntimeError(reason)
        self._write_as_failed(self.ways[work.unit], work.case, error)

    def _set_aside(self, item: Item, reason: str) -> None:
        work = item.work
        if isinstance(work, CaseWork):
            self._leave_out(self.ways[work.unit], [work.case], reason)
            return
        assert isinstance(work, TrainingWork)
        for way in self.trainees.pop(work.job.digest()):
            self.training_not_run[way.unit.digest] = reason
            cases, way.awaiting = way.awaiting, []
            self._leave_out(way, cases, f"not trained: {reason}")

    def _leave_out(self, way: _Way, cases: list[Case], reason: str) -> None:
        for case in cases:
            self.not_run.append(NotRun(way.unit.title, case.case_id, reason))
            way.missing.pop(case.case_id)
            way.without.append(case)
        self._end_if_done(way)

    def _write_untrained(self, way: _Way, cases: list[Case], reason: str) -> None:
        for case in cases:
            self._write_as_failed(way, case, RuntimeError(f"training failed: {reason}"))

    def _write_as_failed(self, way: _Way, case: Case, error: Exception) -> None:
        self._failing.append((way, case, self._writer.submit(failed_case, case, way.unit.evaluation, error)))

    def _write_failed(self, wait: bool = False) -> None:
        ready = [one for one in self._failing if wait or one[2].done()]
        self._failing = [one for one in self._failing if one not in ready]
        for way, case, rows in ready:
            self._write(way, case, rows.result())

    def _write(self, way: _Way, case: Case, rows: list[dict[str, Any]]) -> None:
        unit = way.unit
        if len(rows) != unit.rows_per_case:
            raise RuntimeError(f"{unit.title}, {case.case_id}: {len(rows)} rows, {unit.rows_per_case} due")
        assert self.store is not None
        try:
            self.store.write_case(unit.folder, case.case_id, rows)
        except OSError as error:
            self._unwritten += 1
            reason = f"its record cannot be written: {one_line(error)}"
            self._leave_out(way, [case], reason)
            if self._unwritten >= UNWRITTEN_IN_A_ROW and not self._giving_up:
                raise ClusterLost(reason) from error
            return
        self._unwritten = 0
        self.computed += 1
        way.missing.pop(case.case_id)
        failure = next((row["reason"] for row in rows if row["status"] == FAILED), None)
        if failure is not None:
            self.observer.failed(unit, case, failure)
        self._advanced(way)
        self._end_if_done(way)

    def _end_if_done(self, way: _Way) -> None:
        if not way.missing and not way.ended:
            self._end(way)

    def _end(self, way: _Way) -> None:
        way.ended = True
        if way.without or way.unit.digest in self.training_not_run:
            self._stage(way, "not run")
            return
        if self.store is not None:
            self.store.complete_unit(way.unit.folder)
        self._stage(way, "done")
        self.observer.finished_unit(way.unit, way.training)
        if self.store is not None:
            self.on_unit(way.unit, self._rows(way.unit), way.training)

    def _rows(self, unit: Unit) -> pd.DataFrame:
        assert self.store is not None
        rows = self.store.read_unit(unit.folder)
        expected = len(unit.cases) * unit.rows_per_case
        if len(rows) != expected:
            raise RuntimeError(f"{unit.title}: {len(rows)} rows on disk, {expected} expected")
        return rows

    def _stage(self, way: _Way, stage: str) -> None:
        if way.stage != stage:
            way.stage = stage
            self.observer.stage(way.unit, stage)

    def _advanced(self, way: _Way) -> None:
        self.observer.advanced(way.unit, len(way.unit.cases) - len(way.missing) - len(way.without))


def _size(case: Case) -> int:
    try:
        return case.image.stat().st_size
    except OSError:
        return 1


def _is_lost(machines: Machines) -> bool:
    try:
        machines.now()
    except ClusterLost:
        return True
    return False
