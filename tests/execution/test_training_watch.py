"""When a training is ended from outside, and whose fault its end is; without Ray and with a clock of our own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contestants import Budget, Target
from benchmarks.execution import training_watch
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.training_watch import (
    Heartbeat,
    TrainingProcessDied,
    TrainingWatch,
    cause_in_group,
    work_folder,
)

ROOT = Path(__file__).resolve().parents[2]
JOB = TrainingJob("mock-learner", {}, Target("t", "", "", (1,)), (), Budget(minutes=10.0), 1, timeout_minutes=2.0)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def heart(tmp_path: Path) -> Heartbeat:
    return Heartbeat(work_folder(tmp_path / "one"))


def test_a_training_that_shows_no_sign_of_life_is_overdue(tmp_path: Path, clock: Hand, heart: Heartbeat) -> None:
    watch = TrainingWatch(JOB, tmp_path / "one", clock)
    clock.seconds += 10_000
    assert watch.overdue() == ""  # it waits for a free machine
    heart.beat_now("preparing")
    assert watch.overdue() == ""
    clock.seconds += 119
    assert watch.overdue() == ""
    heart.beat_now("training", step=3, progress=0.25)
    assert watch.overdue() == ""
    assert watch.progress()["step"] == 3
    clock.seconds += 119
    assert watch.overdue() == ""
    clock.seconds += 2
    assert watch.overdue() == "no sign of life within 2 minutes"


def test_the_sign_of_an_earlier_process_is_no_sign_of_life(tmp_path: Path, clock: Hand, heart: Heartbeat) -> None:
    heart.beat_now("training", step=3)
    watch = TrainingWatch(JOB, tmp_path / "one", clock)
    assert watch.progress() == {}
    clock.seconds += 10_000
    assert watch.overdue() == ""


def test_a_tool_of_the_method_has_its_minutes_and_some(tmp_path: Path, clock: Hand, heart: Heartbeat) -> None:
    watch = TrainingWatch(JOB, tmp_path / "one", clock)
    heart.beat_now("own tool")
    assert watch.overdue() == ""
    clock.seconds += 60 * 22 - 1  # twice ten, and two
    assert watch.overdue() == ""
    clock.seconds += 2
    assert watch.overdue() == "not finished within 22 minutes"
    endless = TrainingWatch(replace(JOB, budget=Budget(steps=5)), tmp_path / "one", clock)
    heart.beat_now("own tool")
    assert endless.overdue() == ""
    clock.seconds += 1e9
    assert endless.overdue() == ""


def test_signs_are_written_every_few_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(training_watch.time, "monotonic", lambda: now[0])
    heart, path = Heartbeat(tmp_path), tmp_path / training_watch.SIGN_OF_LIFE
    heart.beat("training", step=1)
    first = path.read_text()
    now[0] = training_watch.BEAT_SECONDS - 0.1
    heart.beat("training", step=2)
    assert path.read_text() == first
    now[0] = training_watch.BEAT_SECONDS
    heart.beat("training", step=3)
    assert '"step": 3' in path.read_text()


class Group(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        self.worker_failures = failures


class Raised(Exception):
    """As Ray Train wraps what a worker's own code raised."""

    def __init__(self, cause: BaseException) -> None:
        self._base_exc = cause


def test_the_error_of_a_workers_own_code_is_the_methods() -> None:
    own = ValueError("no such layer")
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer")
    assert cause_in_group(Group({0: Raised(lost), 1: Raised(own)})) is own
    assert cause_in_group(Group({0: Raised(own)})) is own


def test_a_worker_that_is_gone_is_the_machines() -> None:
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer")
    for failures in ({0: Raised(lost), 1: RuntimeError("the actor died")}, {0: RuntimeError("the actor died")}, {}):
        assert isinstance(cause_in_group(Group(failures)), TrainingProcessDied)
    assert "the actor died" in str(cause_in_group(Group({0: Raised(lost), 1: RuntimeError("the actor died")})))


def test_a_process_ends_itself_when_its_training_is_overdue(tmp_path: Path) -> None:
    code = f"""
import time
from dataclasses import replace
from pathlib import Path
from benchmarks.execution import training_watch as watch
from tests.execution.test_training_watch import JOB
watch.LOOK_SECONDS = 0.05
job = replace(JOB, timeout_minutes=0.005)
with watch.ended_when_overdue(job, Path({str(tmp_path / "one")!r})):
    watch.Heartbeat(watch.work_folder(Path({str(tmp_path / "one")!r}))).beat_now("training", step=1)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == training_watch.OVERDUE_EXIT_CODE, done.stderr
    assert "training of 'mock-learner': no sign of life within 0.005 minutes; the process ends" in done.stderr


def test_a_process_whose_training_lives_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_watch, "LOOK_SECONDS", 0.01)
    looks: list[int] = []
    monkeypatch.setattr(TrainingWatch, "overdue", lambda self: looks.append(1) or "")
    with training_watch.ended_when_overdue(JOB, tmp_path / "one"):
        while len(looks) < 3:
            time.sleep(0.01)
    assert not any(thread.name == "training-watch" for thread in threading.enumerate())
