"""What runs in Ray's processes: one training, or one segmenter that is given case after case."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.environment import revision
from benchmarks.common.errors import (
    FAULTS_OF_READING,
    MachineFault,
    UserError,
    is_out_of_memory,
    machine_faults,
    one_line,
)
from benchmarks.common.files import require_readable
from benchmarks.contestants import Budget, Environment
from benchmarks.contestants import method as find_method
from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import (
    Evaluation,
    LoadedCase,
    Predicted,
    load_case,
    predict_case,
    rescore_case,
    score_case,
)
from benchmarks.execution.label_guard import reading_labels
from benchmarks.execution.training import (
    Report,
    TrainingJob,
    device_for,
    load_segmenter,
    redirect_output,
    require_files,
    run_job,
)
from benchmarks.metrics import Reference, evaluate_mask

Rows = list[dict[str, Any]]

logger = logging.getLogger(__name__)


class OutOfMemory(Exception):
    """An item needs more memory than this process has, its caches emptied."""


@dataclass(frozen=True)
class Loading:
    """What a worker holds: everything that its segmenter depends on. Without a method it only scores.

    `log` is where its output goes before its first case, `files` the weights files that the configuration names.
    """

    log: Path
    method: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    cpus: int = 1
    gpus: float = 0.0
    environment: Environment | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """One case for a worker.

    Attributes:
        number: names the order, for taking it back.
        evaluation: a reference to the `Evaluation` of the unit, in a list: Ray then sends it to a worker once.
        log: where the worker's output goes meanwhile.
        last_try: running out of memory is a failure of the method now.
        masks: where masks are kept instead of in the unit's folder: of a case that another worker computes as well.
    """

    number: int
    case: Case
    evaluation: Sequence[Any]
    log: Path
    last_try: bool = False
    masks: Path | None = None


def training_task(job: TrainingJob) -> Any:
    """`_train_task` with its resources. A worker group has processes of its own: the task then needs none."""
    import ray

    alone = job.workers == 1
    return ray.remote(
        num_cpus=job.budget.cpus if alone else 0, num_gpus=job.budget.gpus if alone else 0, max_retries=0
    )(_train_task)


def _train_task(
    job: TrainingJob,
    folder: Path,
    log: Path | None,
    cache: Path,
    fresh: str,
    report: Report | None = None,
    nodes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Runs in a Ray worker process.

    Raises:
        MachineFault: the storage fails, or this machine lacks the method or its weights file.
        Exception: whatever the method raises.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "86400")  # wait for a free machine
    with machine_faults():
        if log is not None:
            redirect_output(log)
        _check_machine(job.method, None, job.budget.gpus if job.workers == 1 else 0.0)
        require_files(job.files)
        _require_cases(job)
        try:
            return run_job(job, folder, log, cache, fresh, report, nodes)
        except Exception:  # the record has a line of it, the log where it came from
            logger.exception("the training of %s failed", job.method)
            raise


def _require_cases(job: TrainingJob) -> None:
    """Raises MachineFault: a training case is not there, or this machine must not read it now."""
    with machine_faults(FAULTS_OF_READING):
        for case in (case for _, cases in job.parts for case in cases):
            if not (case.image.exists() and case.label.exists()):
                raise MachineFault(f"{case.image} or its label is not there on {socket.gethostname()}")
            for path in (case.image, case.label):
                require_readable(path)


class Turns:
    """One thread at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: list[int] = []
        self._changed = threading.Condition()

    def next(self) -> int:
        """Take a number."""
        with self._changed:
            self._waiting.append(number := next(self._numbers))
            return number

    @contextmanager
    def wait_for(self, number: int) -> Iterator[None]:
        """Wait until all who came before have had their turn, and have it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == number)
        try:
            yield
        finally:
            self.leave(number)

    def leave(self, number: int) -> None:
        """The turn is over, or not wanted any more."""
        with self._changed:
            if number in self._waiting:
                self._waiting.remove(number)
                self._changed.notify_all()


class Evaluator:
    """A Ray actor that holds one segmenter and serves every unit that needs it."""

    def __init__(self, loading: Loading) -> None:
        self._loading, self._log = loading, loading.log
        self._segmenter: Any = None
        self._withdrawn: set[int] = set()
        self._turns = Turns()
        with machine_faults():
            redirect_output(self._log)

    def where(self) -> str:
        """The name of the machine; answered as soon as the process is up."""
        return socket.gethostname()

    def ready(self) -> float:
        """Load the segmenter; seconds that it took. In a call of its own, so that its error can be told.

        Raises:
            MachineFault: this machine lacks the method, a weights file, the checkpoint or the GPU.
            Exception: whatever the method raises.
        """
        started = time.perf_counter()
        one = self._loading
        warm_up()
        if not one.method:
            return time.perf_counter() - started
        with machine_faults():
            device = _check_machine(one.method, one.checkpoint, one.gpus)
            require_files(one.files)
            self._segmenter = load_segmenter(find_method(one.method), one.config, device, one.checkpoint)
        _set_threads(one.cpus)
        return time.perf_counter() - started

    def evaluate(self, order: Order) -> Rows | None:
        """All rows of a case; None if the order has been taken back.

        Calls in several threads overlap: one case is loaded and another scored while the segmenter works on a third.

        Raises:
            MachineFault: the storage fails.
            OutOfMemory: with a cache just emptied.
        """
        turn = self._turns.next()
        try:
            if self._is_withdrawn(order):
                return None
            evaluation = replace(_fetched(order.evaluation[0]), raise_out_of_memory=True)
            if order.masks is not None:
                evaluation = replace(evaluation, predictions=order.masks)
            with reading_labels():
                loaded = load_case(order.case, evaluation)
            with self._turns.wait_for(turn):
                if not self._begin(order):
                    return None
                if isinstance(loaded, list):
                    return loaded
                loaded, predictions = self._predict(loaded, order.last_try)
            with reading_labels():
                return score_case(loaded, predictions)
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(one_line(error)) from None
            raise
        finally:
            self._turns.leave(turn)

    def _predict(self, loaded: LoadedCase, last_try: bool) -> tuple[LoadedCase, list[Predicted]]:
        """The masks, with a second attempt if memory ran out."""
        assert self._segmenter is not None
        _set_threads(self._loading.cpus)  # of this thread: the number is not the process's
        try:
            return loaded, predict_case(loaded, self._segmenter)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        _empty_caches()
        loaded = loaded.for_the_last_time() if last_try else loaded
        return loaded, predict_case(loaded, self._segmenter)

    def rescore(self, order: Order) -> Rows | str | None:
        """All rows of a case from masks that are there; a word where they are not; None if the order is taken back."""
        if not self._begin(order):
            return None
        try:
            rows = rescore_case(order.case, _fetched(order.evaluation[0]))
        except MachineFault:
            raise
        except Exception as error:  # a mask that cannot be read is made again
            return one_line(error)
        return "no mask" if rows is None else rows

    def withdraw(self, number: int) -> None:
        """Take an order back, if it has not been begun. Runs beside the other calls."""
        self._withdrawn.add(number)

    def _is_withdrawn(self, order: Order) -> bool:
        withdrawn = order.number in self._withdrawn
        self._withdrawn.discard(order.number)
        return withdrawn

    def _begin(self, order: Order) -> bool:
        if self._is_withdrawn(order):
            return False
        if order.log != self._log:
            self._log = order.log
            redirect_output(order.log)
        return True


def warm_up() -> None:
    """Pay now for what only the first case needs: the tables of the metrics, the commit of this code.

    Where many processes share a processor, all their first cases would otherwise be late by the same work at once.
    """
    reference = np.zeros((8, 8, 8), bool)
    reference[2:6, 2:6, 2:6] = True
    evaluate_mask(np.roll(reference, 1, axis=0), Reference(reference, (1.0, 1.0, 1.0)))
    revision()


@lru_cache(maxsize=1)
def actor_class() -> Any:
    """`Evaluator` for Ray; `withdraw` is heard while a case is computed."""
    import ray

    class Actor(Evaluator):
        """Ray wants the group named where the method is defined."""

        @ray.method(concurrency_group="control")
        def withdraw(self, number: int) -> None:
            super().withdraw(number)

    return ray.remote(concurrency_groups={"control": 1}, max_restarts=0)(Actor)


@lru_cache(maxsize=64)
def _fetched(reference: Any) -> Evaluation:
    import ray

    return ray.get(reference)


def _check_machine(method: str, checkpoint: Path | None, gpus: float) -> str:
    """The device to work on, where everything is there that the driver saw to.

    Raises:
        MachineFault: it is not.
    """
    host = socket.gethostname()
    try:
        find_method(method)
    except UserError as error:
        raise MachineFault(f"{error} on {host}") from error
    if checkpoint is not None and not checkpoint.is_dir():
        raise MachineFault(f"{checkpoint} is not there on {host}")
    try:
        return device_for(Budget(gpus=gpus))
    except UserError as error:
        raise MachineFault(f"{error} ({host})") from error


def _empty_caches() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _set_threads(cpus: int) -> None:
    """As many threads as processors were given; only of a torch that the method itself has imported."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, cpus))


def outcome_of(reference: Any) -> Any:
    """The value of a finished reference, or the exception that it ended with (Ray's wrapping removed)."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error
