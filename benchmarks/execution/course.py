"""Units on their way to their end: which rows are due, who waits for which training, when a unit is finished.

What is to be done next is decided by `scheduler` and carried out by `crew`; this module knows what it means. All of it
runs in the driver, which alone writes records.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import MachineFault, one_line
from benchmarks.common.identity import digest
from benchmarks.data.dataset import Case
from benchmarks.execution.crew import CaseWork, ClusterLost, Crew, Machines, TrainingWork
from benchmarks.execution.environments import Environments
from benchmarks.execution.last_words import last_words, take_back
from benchmarks.execution.newcomers import Newcomers
from benchmarks.execution.observer import Observer
from benchmarks.execution.orders import (
    Action,
    Assign,
    AvoidNode,
    Commit,
    Fail,
    Item,
    Key,
    Need,
    Node,
    SetAside,
    StartWorker,
    WorkerOrder,
)
from benchmarks.execution.plan import Folders, Unit
from benchmarks.execution.room import need_of, training_need
from benchmarks.execution.scheduler import Scheduler
from benchmarks.execution.training import checkpoint_folder, finished, run_job
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.way import Way
from benchmarks.execution.worker import Loading
from benchmarks.execution.writing import Writer
from benchmarks.results.records import FAILED, RecordStore

logger = logging.getLogger("tags_bench")

LOAD_LIMIT_SECONDS = 1800.0  # for a method to be ready, once its process is up
NODES_EVERY_SECONDS = 5.0
UNWRITTEN_IN_A_ROW = 3  # records that cannot be written: the disk is full, no need to go on

SCORING = Key("scoring", Need(1.0), load_limit=LOAD_LIMIT_SECONDS)


@dataclass(frozen=True)
class NotRun:
    """A case that the machine, not the method, kept from being evaluated; the next run takes it up."""

    unit: str
    case: str
    reason: str


class Interrupted(KeyboardInterrupt):
    """The run was interrupted by hand. The message says what is kept and how to go on."""


@dataclass(frozen=True)
class Records:
    """Where the rows of the units go.

    Attributes:
        store: of the records.
        on_unit: called for every unit that has all its rows, with these and the figures of its training.
        retry_failed: failed cases are computed again.
    """

    store: RecordStore
    on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None]
    retry_failed: bool = False


class Course:
    """All units on their way; without `records` they are only trained.

    `newcomers` decides about nodes that join later; without it they are all used.
    """

    def __init__(
        self,
        units: list[Unit],
        folders: Folders,
        observer: Observer,
        machines: Machines,
        fresh: bool,
        records: Records | None = None,
        newcomers: Newcomers | None = None,
    ) -> None:
        self.folders, self.observer, self.machines, self.fresh = folders, observer, machines, fresh
        self.call = uuid.uuid4().hex if fresh else ""
        self.records, self.newcomers = records, newcomers
        self.writer = Writer(records.store) if records else None
        self.computed = 0
        self.not_run: list[NotRun] = []
        self.training_failed: dict[str, str] = {}
        self.training_not_run: dict[str, str] = {}
        self.loadings: dict[Any, Loading] = {SCORING.name: Loading(folders.logs / "scoring.log")}
        self.ways = [self._way(number, unit) for number, unit in enumerate(units)]
        self.trainees: dict[str, list[Way]] = {}
        self.by_key: dict[Key, list[Way]] = defaultdict(list)
        for way in self.ways:
            self.by_key[way.key].append(way)
        self.scheduler = Scheduler(self._nodes(), time.monotonic())
        self.crew = Crew(self.scheduler, machines, self.loadings)
        self.environments = Environments()
        self._giving_up = False

    def due(self) -> list[Unit]:
        """The units for which a method has to be trained or has cases left."""
        return [way.unit for way in self.ways if way.missing or not way.trained]

    def use(self, environments: Environments) -> None:
        """The environments of the methods; what is trained or predicted by one that has none is not run."""
        self.environments = self.crew.environments = environments

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
            while self.scheduler.outstanding or self._writing:
                self._carry_out(self.crew.wait(0.05 if self._writing else 1.0))
                self._write_failed()
                now = time.monotonic()
                if now - ticked >= 1.0:
                    ticked = now
                    self._carry_out(self.scheduler.tick(now))
                if now - looked >= NODES_EVERY_SECONDS:
                    looked = now
                    self._tell_trainings()
                    self._carry_out(self.scheduler.set_nodes(self._nodes(), now))
        except ClusterLost as lost:
            self._give_up(str(lost))
        except KeyboardInterrupt:
            logger.warning("%s; once more to end at once", self._kept())
            if threading.current_thread() is threading.main_thread():
                usual = signal.signal(signal.SIGINT, _end_at_once)
            raise
        finally:
            if self.writer is not None:
                self.writer.close()
            if not _is_lost(self.machines):
                self.crew.stop_all()
            if usual is not None:
                signal.signal(signal.SIGINT, usual)

    def _nodes(self) -> list[Node]:
        """The nodes that are up and may be used."""
        nodes = self.machines.now()
        return nodes if self.newcomers is None else self.newcomers.admitted(nodes, self.machines.nodes)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turns Ctrl-C into an `Interrupted` that says what is kept; an end without any word is spoken of, too."""
        try:
            with last_words(
                "error: ended from outside: this process was killed, or Ray's own on this machine (raylet) was; what "
                f"is finished is kept in {self.folders.out}, and the same command goes on from there"
            ):
                yield
        except KeyboardInterrupt:
            raise Interrupted(self._kept()) from None

    def _kept(self) -> str:
        total = sum(len(way.unit.cases) for way in self.ways)
        left = sum(len(way.missing) + len(way.without) for way in self.ways)
        kept = f"{total - left} of {total} cases are finished and kept" if self.records else "what is trained is kept"
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

    def _way(self, number: int, unit: Unit) -> Way:
        checkpoint = checkpoint_of(unit, self.folders)
        need = need_of(unit)
        apart = [str(unit.environment)] if unit.environment is not None else []
        name = digest([unit.method.name, unit.entry.config, str(checkpoint), need.cpus, need.gpus, *apart])
        loading = Loading(
            unit.log, unit.method.name, unit.entry.config, checkpoint, unit.cpus, need.gpus, unit.environment,
            unit.weight_files,
        )  # fmt: skip
        self.loadings.setdefault(name, loading)
        ahead = 2 if need.gpus > 0 and need.cpus > 1 else 1  # load and score beside the GPU, never beside a CPU method
        way = Way(number, unit, Key(name, need, load_limit=LOAD_LIMIT_SECONDS, ahead=ahead), checkpoint)
        if unit.job is not None and checkpoint is not None:
            way.training = None if self.fresh else kept_training(unit.job, checkpoint)
            way.trained = way.training is not None
        if self.records is not None:
            if unit.job is not None and way.trained:
                way.afresh = self.records.store.use_weights(unit.folder, way.weights)
            way.missing = missing_cases(unit, self.records.store, self.records.retry_failed)
        return way

    def _begin(self, way: Way) -> None:
        self._advanced(way)
        kept = way.unit.evaluation.predictions
        if self.records is None:
            if way.trained:
                self._end(way)
            else:
                self._train(way)
        elif not way.missing:
            self._end(way)
        elif kept is not None and kept.is_dir() and not (self.fresh or way.afresh):
            self._submit(self._items(way, list(way.missing.values()), score_only=True))
        else:
            self._compute(way, list(way.missing.values()))

    def _compute(self, way: Way, cases: list[Case]) -> None:
        """Predict and score; after the training if that is still to be done."""
        problem = self.environments.problem(way.unit.method.name, way.unit.environment)
        failed, not_run = (reasons.get(way.unit.digest) for reasons in (self.training_failed, self.training_not_run))
        if way.unit.evaluation.given is not None:
            self._submit(self._items(way, cases, score_only=True))
        elif problem is not None:
            self._leave_out(way, cases, problem)
        elif way.trained:
            self._submit(self._items(way, cases, score_only=False))
        elif failed is not None:
            self._write_untrained(way, cases, failed)
        elif not_run is not None:
            self._leave_out(way, cases, f"not trained: {not_run}")
        else:
            way.awaiting += cases
            self._train(way)

    def _items(self, way: Way, cases: list[Case], score_only: bool) -> list[Item]:
        unit = way.unit
        key = SCORING if score_only else way.key
        return [
            Item(
                key,
                CaseWork(way.number, case, score_only, way.evaluation, unit.log, unit.evaluation.predictions),
                length=max(1.0, float(_size(case))) * unit.rows_per_case,
                limit=unit.case_timeout_seconds,
                place=int(digest(str(case.image))[:8], 16),
            )
            for case in cases
        ]

    def _train(self, way: Way) -> None:
        job = way.unit.job
        if way.trained or job is None or way.checkpoint is None:
            return
        problem = self.environments.problem(way.unit.method.name, way.unit.environment)
        if problem is not None:
            self.training_not_run[way.unit.digest] = problem
            self._leave_out(way, [], problem)
            return
        trainees = self.trainees.get(job.digest())
        if trainees is None:
            self.trainees[job.digest()] = [way]
            self._stage(way, "to be trained")
            key = Key(("training", job.digest()), training_need(job), first=True, resumes=True)
            self._submit([Item(key, TrainingWork(job, way.checkpoint, way.unit.log, self.folders.cache, self.call))])
        elif way not in trainees:
            self._stage(way, trainees[0].stage)
            trainees.append(way)

    def _submit(self, items: list[Item]) -> None:
        self._carry_out(self.scheduler.submit(items, time.monotonic()))

    def _carry_out(self, actions: list[Action]) -> None:
        """The workers' orders first, so that none of them waits while the records of others are written."""
        for order in [action for action in actions if isinstance(action, WorkerOrder)]:
            self._tell_stage(order)
            self.crew.carry_out(order)
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

    def _tell_stage(self, action: WorkerOrder) -> None:
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

    def _tell_trainings(self) -> None:
        for work, figures in self.crew.trainings():
            for way in self.trainees.get(work.job.digest(), []):
                self.observer.training(way.unit, figures)

    # What became of an item -----------------------------------------------------------------------------------------

    def _take(self, item: Item, result: Any) -> None:
        work = item.work
        if isinstance(work, TrainingWork):
            if isinstance(result, Exception):
                self._fail(item, one_line(result)[:400])
                return
            for way in self.trainees.pop(work.job.digest()):
                way.has_trained(result)
                cases, way.awaiting = way.awaiting, []
                if self.records is None:
                    self._end(way)
                else:
                    self._stage(way, "waiting")  # for a worker; its training is over
                    self._compute(way, self._due_with(self.records, way, cases))
                    self._end_if_done(way)  # a run that was cut off may have left all rows by these very weights
            return
        assert isinstance(work, CaseWork)
        way = self.ways[work.unit]
        if work.score_only and isinstance(result, str) and way.unit.evaluation.given is not None:
            self._write_as_failed(way, work.case, RuntimeError(result))
        elif work.score_only and (not isinstance(result, list) or way.is_of_others(result)):
            self._compute(way, [work.case])  # no mask, or one that cannot be read, or of another training
        elif isinstance(result, Exception):
            self._write_as_failed(way, work.case, result)
        else:
            self._write(way, work.case, result)

    def _due_with(self, records: Records, way: Way, awaiting: list[Case]) -> list[Case]:
        """The cases that waited for a training; all of the unit where it has rows by the weights of another one.

        Those that are being scored from kept masks come back by themselves.
        """
        if not records.store.use_weights(way.unit.folder, way.weights):
            return awaiting
        scored = way.missing.keys() - {case.case_id for case in awaiting}
        left_out = {case.case_id for case in way.without}
        every = missing_cases(way.unit, records.store, records.retry_failed)
        way.missing = {name: case for name, case in every.items() if name not in left_out}
        return [case for name, case in way.missing.items() if name not in scored]

    def _fail(self, item: Item, reason: str) -> None:
        work = item.work
        if isinstance(work, TrainingWork):
            for way in self.trainees.pop(work.job.digest()):
                self.training_failed[way.unit.digest] = reason
                cases, way.awaiting = way.awaiting, []
                self._write_untrained(way, cases, reason)
                if self.records is None:
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

    def _leave_out(self, way: Way, cases: list[Case], reason: str) -> None:
        for case in cases:
            self.not_run.append(NotRun(way.unit.title, case.case_id, reason))
            way.missing.pop(case.case_id)
            way.without.append(case)
        self._end_if_done(way)

    def _write_untrained(self, way: Way, cases: list[Case], reason: str) -> None:
        for case in cases:
            self._write_as_failed(way, case, RuntimeError(f"training failed: {reason}"))

    @property
    def _writing(self) -> bool:
        return self.writer is not None and self.writer.waiting

    def _write_as_failed(self, way: Way, case: Case, error: Exception) -> None:
        assert self.writer is not None
        self.writer.begin_failed(way, case, error)

    def _write_failed(self, wait: bool = False) -> None:
        for way, case, rows in self.writer.failed(wait) if self.writer else ():
            self._write(way, case, rows)

    def _write(self, way: Way, case: Case, rows: list[dict[str, Any]]) -> None:
        unit = way.unit
        assert self.writer is not None
        try:
            self.writer.write(unit, case, rows)
        except OSError as error:
            reason = f"its record cannot be written: {one_line(error)}"
            self._leave_out(way, [case], reason)
            if self.writer.unwritten >= UNWRITTEN_IN_A_ROW and not self._giving_up:
                raise ClusterLost(reason) from error
            return
        self.computed += 1
        way.missing.pop(case.case_id)
        failure = next((row["reason"] for row in rows if row["status"] == FAILED), None)
        if failure is not None:
            self.observer.failed(unit, case, failure)
        self._advanced(way)
        self._end_if_done(way)

    def _end_if_done(self, way: Way) -> None:
        if not way.missing and not way.ended:
            self._end(way)

    def _end(self, way: Way) -> None:
        way.ended = True
        if way.without or way.unit.digest in self.training_not_run:
            self._stage(way, "not run")
            return
        if self.records is not None:
            self.records.store.complete_unit(way.unit.folder)
        elif way.unit.digest in self.training_failed:
            self._stage(way, "failed")
            return
        else:
            self._advanced(way)
        self._stage(way, "done")
        self.observer.finished_unit(way.unit, way.training)
        if self.records is not None:
            self.records.on_unit(way.unit, _rows(self.records.store, way.unit), way.training)

    def _stage(self, way: Way, stage: str) -> None:
        if way.stage != stage:
            way.stage = stage
            self.observer.stage(way.unit, stage)

    def _advanced(self, way: Way) -> None:
        if self.records is None:
            self.observer.advanced(way.unit, int(way.trained))
            return
        self.observer.advanced(way.unit, len(way.unit.cases) - len(way.missing) - len(way.without))


def kept_training(job: TrainingJob, checkpoint: Path) -> dict[str, Any] | None:
    """The figures of a training that is finished; None if there is none, or a newer one waits for its storage."""
    try:
        return run_job(job, checkpoint) if finished(checkpoint) else None
    except MachineFault as fault:
        logger.warning("%s: tried again as a training", one_line(fault, 300))
        return None


def missing_cases(unit: Unit, store: RecordStore, retry_failed: bool, weights: str = "") -> dict[str, Case]:
    """The cases of a unit that have no record, by name; with `retry_failed`, those that failed too.

    Args:
        weights: of its training; all are missing where a record comes by others.
    """
    if not unit.evaluation.protocols:
        return {}
    ready = store.finished(unit.folder, [case.case_id for case in unit.cases], retry_failed, weights)
    return {case.case_id: case for case in unit.cases if case.case_id not in ready}


def checkpoint_of(unit: Unit, folders: Folders) -> Path | None:
    """The folder with the weights of a unit: of its training, or of the zoo."""
    if unit.job is not None:
        return checkpoint_folder(folders.checkpoints, unit.job)
    return unit.zoo.folder if unit.zoo else None


def _rows(store: RecordStore, unit: Unit) -> pd.DataFrame:
    rows = store.read_unit(unit.folder)
    expected = len(unit.cases) * unit.rows_per_case
    if len(rows) != expected:
        raise RuntimeError(f"{unit.title}: {len(rows)} rows on disk, {expected} expected")
    return rows


def _end_at_once(number: int, frame: Any) -> None:
    take_back()
    os._exit(130)


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
