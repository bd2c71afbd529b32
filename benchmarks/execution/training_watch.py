"""A training seen from outside: does it still live, and whose fault is it that it ended?

The loop leaves a sign of life in its folder after every case that it prepares or validates and, every few seconds,
after a step. Whoever waits for the training looks at that file, which needs nothing of the process itself: a loop
that hangs in a kernel or in a lock cannot end itself.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.errors import MachineFault, one_line
from benchmarks.common.files import write_json
from benchmarks.execution.training_job import TrainingJob

SIGN_OF_LIFE = "alive.json"
CURVE = "curve.json"
"""The loss curve of a training that is going on, in its work folder, for whoever draws it meanwhile."""

BEAT_SECONDS = 5.0
LOOK_SECONDS = 1.0
OVERDUE_EXIT_CODE = 70
OVERDUE_FILE = "overdue.json"
OWN_TOOL_FACTOR = 2.0  # a tool of the method's own may overrun its minutes by so much, for what it does beside training


class TrainingProcessDied(MachineFault):
    """The machine ended the training (a killed process, a lost node, no memory): not a result of the method."""


class TrainingOverdue(TimeoutError):
    """The training gave no sign of life within its limit, and was ended."""


def work_folder(folder: Path) -> Path:
    """Where a training keeps its files until the checkpoint folder is complete."""
    return folder.with_name(f".{folder.name}.partial")


def curve_file(folder: Path) -> Path:
    """Where the curve of a training lies that goes on; there is none for a method with a loop of its own."""
    return work_folder(folder) / CURVE


class Heartbeat:
    """Writes signs of life of one training."""

    def __init__(self, work: Path) -> None:
        self._path, self._number, self._last = work / SIGN_OF_LIFE, itertools.count(), -float("inf")

    def beat(self, stage: str, **facts: float) -> None:
        """Say that it lives, at most every `BEAT_SECONDS`."""
        if time.monotonic() - self._last >= BEAT_SECONDS:
            self.beat_now(stage, **facts)

    def beat_now(self, stage: str, **facts: float) -> None:
        """Say that it lives."""
        write_json(self._path, {"process": os.getpid(), "beat": next(self._number), "stage": stage, **facts})
        self._last = time.monotonic()


class TrainingWatch:
    """Looks after one training from the process that waits for it.

    The time before its first sign of life, in which it waits for a free machine, does not count.

    Args:
        folder: of the checkpoint.
        clock: seconds that only go forward.
    """

    def __init__(self, job: TrainingJob, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._clock = job, clock
        self._path = work_folder(folder) / SIGN_OF_LIFE
        self._seen = self._read()
        self._began: float | None = None
        self._last: float | None = None

    def progress(self) -> dict[str, Any]:
        """The latest sign of life: stage and, once it trains, step, share of the budget and loss; or empty."""
        return dict(json.loads(self._seen)) if self._last is not None and self._seen else {}

    def overdue(self) -> str:
        """Why the training has to be ended now; empty while it may go on. Ask every few seconds."""
        now, seen = self._clock(), self._read()
        if seen and seen != self._seen:
            self._seen, self._last = seen, now
            self._began = now if self._began is None else self._began
        if self._last is None or self._began is None:
            return ""
        limit, minutes = self._job.timeout_minutes, self._job.budget.minutes
        if not self._own_tool():
            silent = now - self._last
            return f"no sign of life within {limit:g} minutes" if silent > 60 * limit else ""
        if minutes is None:
            return ""  # nothing is known of how long its steps take
        whole = OWN_TOOL_FACTOR * minutes + limit
        return f"not finished within {whole:g} minutes" if now - self._began > 60 * whole else ""

    def _own_tool(self) -> bool:
        return bool(self.progress().get("stage") == "own tool")

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""


@contextmanager
def ended_when_overdue(job: TrainingJob, folder: Path) -> Iterator[None]:
    """Within the context a thread ends this whole process when the training in it is overdue.

    For a training in a process that nobody waits for but Ray Tune, which starts it again: `overdue_before` then says
    why it must not. A hang that never lets other threads of the process run is not seen.
    """
    watch, over = TrainingWatch(job, folder), threading.Event()

    def look() -> None:
        while not over.wait(timeout=LOOK_SECONDS):
            reason = watch.overdue()
            if reason:
                print(f"training of '{job.method}': {reason}; the process ends", file=sys.stderr, flush=True)
                write_json(work_folder(folder) / OVERDUE_FILE, {"reason": reason})
                os._exit(OVERDUE_EXIT_CODE)

    thread = threading.Thread(target=look, name="training-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def overdue_before(folder: Path) -> str:
    """Why an earlier attempt at this training was ended as overdue; empty if none was."""
    path = work_folder(folder) / OVERDUE_FILE
    if not path.is_file():
        return ""
    reason = json.loads(path.read_text(encoding="utf-8"))["reason"]
    return f"{reason}; the process was ended"


def training_outcome(reference: Any) -> dict[str, Any] | Exception:
    """What a training task on Ray that is over has given: figures, the method's own error, or `TrainingProcessDied`."""
    import ray

    try:
        return dict(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return TrainingProcessDied(one_line(error)[:400])


def cause_in_group(error: Exception) -> Exception:
    """Why a group of Ray Train workers has failed: the error of a worker's own code, else `TrainingProcessDied`.

    A worker that dies takes the others with it, and their complaints about the lost connection say nothing.
    """
    failures = list(getattr(error, "worker_failures", {}).values())
    raised = [cause for cause in (getattr(failure, "_base_exc", None) for failure in failures) if cause is not None]
    if len(raised) < len(failures) or not raised:
        dead = next((failure for failure in failures if getattr(failure, "_base_exc", None) is None), error)
        return TrainingProcessDied(one_line(dead)[:400])
    cause = next((one for one in raised if not _lost_connection(one)), raised[0])
    return cause if isinstance(cause, Exception) else TrainingProcessDied(one_line(cause)[:400])


def _lost_connection(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.distributed.DistBackendError | torch.distributed.DistError) or "gloo" in str(error)
