"""A suite on Ray: plan the units, train what has to be trained, evaluate case by case, resume, never lose a row.

The driver alone writes (records, MLflow). Training is a Ray task, evaluation an actor that holds one segmenter;
the driver only waits, so it can be killed at any time: cases on disk are finished, everything else is not, and
the next run of the same suite goes on from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from benchmarks.common.errors import one_line
from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import failed_case, rescore_case
from benchmarks.execution.plan import Folders, Unit, without_repeats
from benchmarks.execution.training import (
    checkpoint_folder,
    finished,
    run_job,
)
from benchmarks.execution.worker import Evaluator, outcome_of, training_task
from benchmarks.results.records import FAILED, RecordStore

IN_FLIGHT = 2  # cases handed to one actor: it loads the next while the driver writes the last


class Observer(Protocol):
    """Who watches a run: progress bars in a terminal, or nobody."""

    def stage(self, unit: Unit, stage: str) -> None:
        """The unit entered a stage: "training", "loading", "evaluating", "done"."""

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


def run(
    units: list[Unit],
    folders: Folders,
    observer: Observer,
    fresh: bool = False,
    retry_failed: bool = False,
    on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None] = lambda unit, rows, training: None,
) -> RunOutcome:
    """Bring every unit to its end on the running Ray.

    `on_unit` is called once for every unit, finished earlier or now, with its rows and training figures.
    """
    store = RecordStore(folders.records)
    for unit in units:
        store.begin_unit(unit.folder, unit.description(), afresh=fresh)
    if units:
        store.set_current(units[0].suite, [unit.folder for unit in units])
    groups = without_repeats(units)
    others = {first.folder: rest for first, rest in groups}
    running = [_UnitRun(first, folders, store, observer, fresh, retry_failed) for first, _ in groups]

    def ended(one: _UnitRun) -> None:
        on_unit(one.unit, one.rows(), one.training)
        for other in others[one.unit.folder]:
            columns = {"suite": other.suite, "method": other.entry.title}
            store.share_unit(one.unit.folder, other.folder, columns)
            observer.advanced(other, len(other.cases))
            observer.stage(other, "done")
            observer.finished_unit(other, one.training)
            on_unit(other, store.read_unit(other.folder), one.training)

    computed = sum(len(one.waiting) for one in running)
    for one in running:
        one.start()
        if one.done:
            ended(one)
    active = [one for one in running if not one.done]
    try:
        while active:
            _wait([ref for one in active for ref in one.references()])
            for one in active:
                one.advance()
                if one.done:
                    ended(one)
            active = [one for one in active if not one.done]
    finally:
        for one in active:
            one.stop()
    return RunOutcome(computed)


def _wait(references: list[Any]) -> None:
    import ray

    if references:
        ray.wait(references, num_returns=1, timeout=1.0)


@dataclass
class _UnitRun:
    """The way of one unit through training, loading and evaluation. A step that fails becomes failed rows."""

    unit: Unit
    folders: Folders
    store: RecordStore
    observer: Observer
    fresh: bool
    retry_failed: bool
    waiting: deque[Case] = field(default_factory=deque)
    in_flight: dict[Any, Case] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    done: bool = False
    _scoring: dict[Any, Case] = field(default_factory=dict)
    _train_ref: Any = None
    _actor: Any = None
    _ready_ref: Any = None
    _last_sign_of_life: float = 0.0

    def __post_init__(self) -> None:
        ready = self.store.finished(self.unit.folder, [case.case_id for case in self.unit.cases], self.retry_failed)
        self.waiting = deque(case for case in self.unit.cases if case.case_id not in ready)

    @property
    def checkpoint(self) -> Path | None:
        return checkpoint_folder(self.folders.checkpoints, self.unit.job) if self.unit.job else None

    def rows(self) -> pd.DataFrame:
        rows = self.store.read_unit(self.unit.folder)
        expected = len(self.unit.cases) * self.unit.rows_per_case
        if len(rows) != expected:
            raise RuntimeError(f"{self.unit.title}: {len(rows)} rows on disk, {expected} expected")
        return rows

    def start(self) -> None:
        self.observer.advanced(self.unit, len(self.unit.cases) - len(self.waiting))
        if self.checkpoint is not None and finished(self.checkpoint) and self.unit.job and not self.fresh:
            self.training = run_job(self.unit.job, self.checkpoint)
        if not self.waiting or not self.unit.evaluation.protocols:
            self._finish()
        elif self._has_masks() and not self.fresh:
            self._rescore()
        else:
            self._begin()

    def _begin(self) -> None:
        if self.checkpoint is not None and self.training is None:
            self._train()
        else:
            self._load()

    def references(self) -> list[Any]:
        return [ref for ref in (self._train_ref, self._ready_ref, *self.in_flight, *self._scoring) if ref is not None]

    def advance(self) -> None:
        """Take what has become ready, and hand out what comes next."""
        import ray

        ready, _ = ray.wait(self.references(), num_returns=len(self.references()), timeout=0)
        for reference in ready:
            if reference == self._train_ref:
                self._take_training(reference)
            elif reference == self._ready_ref:
                self._take_actor(reference)
            elif reference in self.in_flight:
                self._take_case(reference)
            elif reference in self._scoring:
                self._take_score(reference)
        if self.in_flight and time.monotonic() - self._last_sign_of_life > self.unit.case_timeout_seconds:
            self._time_out()
        if not self.done and not self.waiting and not self.in_flight and not self._scoring:
            self._finish()

    def _has_masks(self) -> bool:
        folder = self.unit.evaluation.predictions
        return folder is not None and folder.is_dir()

    def _rescore(self) -> None:
        """Score the masks that an earlier run has kept; the cases without them are computed afterwards."""
        import ray

        self.observer.stage(self.unit, "scoring")
        task = ray.remote(num_cpus=1, max_retries=0)(rescore_case)
        self._scoring = {task.remote(case, self.unit.evaluation): case for case in self.waiting}
        self.waiting.clear()

    def _take_score(self, reference: Any) -> None:
        case = self._scoring.pop(reference)
        outcome = outcome_of(reference)
        if isinstance(outcome, list):
            self._write(case, outcome)
        else:
            self.waiting.append(case)  # no mask, or one that cannot be read: compute it
        if not self._scoring and self.waiting:
            self._begin()

    def stop(self) -> None:
        """Give up what is running: the driver is going down."""
        import ray

        if self._train_ref is not None:
            ray.cancel(self._train_ref, force=True)
        self._release()

    def _train(self) -> None:
        self.observer.stage(self.unit, "training")
        job, checkpoint = self.unit.job, self.checkpoint
        assert job is not None
        assert checkpoint is not None
        self._train_ref = training_task(job).remote(job, checkpoint, self.unit.log, self.folders.cache, self.fresh)

    def _take_training(self, reference: Any) -> None:
        self._train_ref = None
        outcome = outcome_of(reference)
        if isinstance(outcome, Exception):
            self._fail_waiting(RuntimeError(f"training failed: {one_line(outcome)[:400]}"))
        else:
            self.training = outcome
            self._load()

    def _load(self) -> None:
        import ray

        self.observer.stage(self.unit, "loading")
        actor = ray.remote(num_cpus=self.unit.cpus, num_gpus=self.unit.gpus)(Evaluator)
        self._actor = actor.remote(
            self.unit.method.name, self.unit.entry.config, self.unit.gpus > 0, self.unit.cpus, self.checkpoint,
            self.unit.evaluation, self.unit.log,
        )  # fmt: skip
        self._ready_ref = self._actor.ready.remote()

    def _take_actor(self, reference: Any) -> None:
        self._ready_ref = None
        outcome = outcome_of(reference)
        if isinstance(outcome, Exception):
            self._release()
            self._fail_waiting(RuntimeError(f"cannot be loaded: {one_line(outcome)[:400]}"))
            return
        self.observer.stage(self.unit, "evaluating")
        self._last_sign_of_life = time.monotonic()
        self._hand_out()

    def _hand_out(self) -> None:
        while self.waiting and len(self.in_flight) < IN_FLIGHT:
            case = self.waiting.popleft()
            self.in_flight[self._actor.evaluate.remote(case)] = case

    def _take_case(self, reference: Any) -> None:
        case = self.in_flight.pop(reference)
        outcome = outcome_of(reference)
        self._last_sign_of_life = time.monotonic()
        if isinstance(outcome, Exception):
            self._write(case, failed_case(case, self.unit.evaluation, outcome))
            self._restart()
        else:
            self._write(case, outcome)
            self._hand_out()

    def _time_out(self) -> None:
        limit = self.unit.case_timeout_seconds / 60
        reference = next(iter(self.in_flight))
        case = self.in_flight.pop(reference)
        error = TimeoutError(f"no result within {limit:g} minutes; the process was ended")
        self._write(case, failed_case(case, self.unit.evaluation, error))
        self._restart()

    def _restart(self) -> None:
        """The process is gone or has to go; cases it had not begun are handed to a new one."""
        self.waiting.extendleft(reversed(self.in_flight.values()))
        self.in_flight.clear()
        self._release()
        if self.waiting:
            self._load()

    def _fail_waiting(self, error: Exception) -> None:
        while self.waiting:
            case = self.waiting.popleft()
            self._write(case, failed_case(case, self.unit.evaluation, error))

    def _write(self, case: Case, rows: list[dict[str, Any]]) -> None:
        if len(rows) != self.unit.rows_per_case:
            raise RuntimeError(f"{self.unit.title}, {case.case_id}: {len(rows)} rows, {self.unit.rows_per_case} due")
        self.store.write_case(self.unit.folder, case.case_id, rows)
        reason = next((row["reason"] for row in rows if row["status"] == FAILED), None)
        if reason is not None:
            self.observer.failed(self.unit, case, reason)
        left = len(self.waiting) + len(self.in_flight) + len(self._scoring)
        self.observer.advanced(self.unit, len(self.unit.cases) - left)

    def _release(self) -> None:
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _finish(self) -> None:
        self._release()
        self.store.complete_unit(self.unit.folder)
        self.done = True
        self.observer.stage(self.unit, "done")
        self.observer.finished_unit(self.unit, self.training)


def train_now(unit: Unit, folders: Folders) -> dict[str, Any]:
    """Train one unit on the running Ray, and wait for it; a checkpoint that is there already is not made again."""
    assert unit.job is not None
    folder = checkpoint_folder(folders.checkpoints, unit.job)
    outcome = outcome_of(training_task(unit.job).remote(unit.job, folder, unit.log, folders.cache, False))
    if isinstance(outcome, Exception):
        raise outcome
    return dict(outcome)
