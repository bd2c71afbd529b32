"""What a person sees while a run goes on: bars in a terminal, a plain line every minute anywhere else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from benchmarks.commands.printing import show_rows
from benchmarks.data.dataset import Case
from benchmarks.execution import progress
from benchmarks.execution.plan import Unit

LINE_EVERY_SECONDS = 60.0
TRAININGS_IN_A_LINE = 4
LINES_BESIDE = 4  # of a terminal, for what is not a bar of a unit
AT_REST = ("", "waiting", "done", "failed", "not run")


class Terminal(progress.Progress):
    """Shows how a call of `benchmarks.api` goes on."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def step(self, text: str) -> AbstractContextManager[Any]:
        return self.console.status(Text(text))

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="bold yellow"))

    def line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        show_rows("hosts", rows, self.console)

    def units(self, units: Sequence[Unit]) -> Bars:
        return Bars(units, self.console)

    def trainings(self, units: Sequence[Unit]) -> Bars:
        return Bars(units, self.console, "trainings")


class _Stage(ProgressColumn):
    """What a unit is doing, and for how long it has been doing that."""

    def render(self, task: Task) -> Text:
        stage = task.fields.get("stage", "waiting")
        since = task.fields.get("since")
        style = {"done": "green", "waiting": "dim", "failed": "red", "not run": "red"}.get(stage, "cyan")
        seconds = f" {time.monotonic() - since:.0f} s" if since is not None and stage not in AT_REST else ""
        figures = f", {task.fields['figures']}" if stage == "training" and task.fields.get("figures") else ""
        return Text(f"{stage}{seconds}{figures}", style=style)


class Tally:
    """What is finished, and how long the rest may take.

    Args:
        cases: of each unit; 1 where units are only trained.
        now: seconds that only go forward.
        counted: "cases" or "trainings".
    """

    def __init__(self, cases: dict[Path, int], now: float, counted: str = "cases") -> None:
        self._cases, self._began, self._counted = cases, now, counted
        self._finished: dict[Path, int] = {}
        self._before: dict[Path, int] = {}  # finished when the run began
        self._first: float | None = None  # when something was first evaluated
        self.stages: dict[Path, str] = {}
        self.trainings: dict[Path, str] = {}
        self.failed = 0

    def stage(self, unit: Path, stage: str, now: float) -> None:
        self.stages[unit] = stage
        if self._first is None and stage in ("evaluating", "scoring"):
            self._first = now

    def advanced(self, unit: Path, finished: int) -> None:
        self._before.setdefault(unit, finished)
        self._finished[unit] = finished

    @property
    def total(self) -> int:
        return sum(self._cases.values())

    @property
    def finished(self) -> int:
        return sum(self._finished.values())

    def seconds_left(self, now: float) -> float | None:
        """From the cases finished so far, at the pace since the first one was begun; None without any."""
        done = self.finished - sum(self._before.values())
        if done <= 0 or self._first is None:
            return None
        return (self.total - self.finished) * (now - self._first) / done

    def line(self, now: float) -> str:
        """One line for a log."""
        words = [f"{_duration(now - self._began)}: {self.finished} of {self.total} {self._counted}"]
        if self.failed:
            words.append(f"{self.failed} failed")
        doing = Counter(stage for stage in self.stages.values() if stage not in AT_REST)
        words += [f"{stage} {count} unit{'s' * (count > 1)}" for stage, count in sorted(doing.items())]
        told = [text for unit, text in self.trainings.items() if self.stages.get(unit) == "training"]
        if told:
            words.append("trained so far: " + "; ".join(told[:TRAININGS_IN_A_LINE]))
        left = self.seconds_left(now)
        words.append(f"about {_duration(left)} left" if left is not None else "time left not known yet")
        return ", ".join(words)


class Bars:
    """A bar per unit: its stage, and finished cases, or its training.

    Implements `benchmarks.execution.observer.Observer`.

    Where there are more units than lines, only those at work have a bar, and one more bar stands for all. Outside a
    terminal there are no bars, but a line every minute.

    Args:
        counted: "cases" or "trainings".
    """

    def __init__(self, units: Sequence[Unit], console: Console, counted: str = "cases") -> None:
        self._console, self._counted = console, counted
        totals = {unit.folder: len(unit.cases) if counted == "cases" else 1 for unit in units}
        self._tally = Tally(totals, time.monotonic(), counted)
        self._shown: set[tuple[Path, str]] = set()
        self._lines = None if console.is_terminal else threading.Event()
        self._crowded = len(units) > console.height - LINES_BESIDE
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # labels are shown as they are
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(counted),
            _Stage(),
            TimeElapsedColumn(),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("all units", total=self._tally.total, stage="") if self._crowded else None
        self._tasks = {
            unit.folder: self._progress.add_task(
                unit.title, total=totals[unit.folder], stage="waiting", since=None, visible=not self._crowded
            )
            for unit in units
        }

    def __enter__(self) -> Bars:
        self._progress.start()
        if self._lines is not None:
            threading.Thread(target=self._print_lines, name="lines", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._lines is not None:
            self._lines.set()
            self._print(self._tally.line(time.monotonic()))

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        show_rows("hosts", rows, self._progress.console)

    def stage(self, unit: Unit, stage: str) -> None:
        self._tally.stage(unit.folder, stage, time.monotonic())
        working = stage not in AT_REST
        self._progress.update(self._tasks[unit.folder], stage=stage, since=time.monotonic())
        if self._crowded:
            room = self._console.height - LINES_BESIDE - 1
            shown = sum(task.visible for task in self._progress.tasks) - 1
            self._progress.update(self._tasks[unit.folder], visible=working and shown < room)

    def training(self, unit: Unit, figures: Mapping[str, Any]) -> None:
        text = training_text(figures)
        self._tally.trainings[unit.folder] = f"{unit.title} {text}"
        self._progress.update(self._tasks[unit.folder], figures=text)

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        self._tally.advanced(unit.folder, finished_cases)
        self._progress.update(self._tasks[unit.folder], completed=finished_cases)
        if self._all is not None:
            left = self._tally.seconds_left(time.monotonic())
            time_left = f"about {_duration(left)} left" if left is not None else ""
            self._progress.update(self._all, completed=self._tally.finished, stage=time_left)

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        self._tally.failed += 1
        if (unit.folder, reason) not in self._shown:  # all cases of a unit often fail for one reason
            self._shown.add((unit.folder, reason))
            self._progress.console.print(Text(f"failed: {unit.title}, {case.case_id}: {reason}", style="red"))

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        self._progress.stop_task(self._tasks[unit.folder])
        if self._lines is not None:
            cases = f", {len(unit.cases)} cases" if self._counted == "cases" else ""
            self._print(f"done: {unit.title}{cases}")

    def _print_lines(self) -> None:
        assert self._lines is not None
        while not self._lines.wait(LINE_EVERY_SECONDS):
            self._print(self._tally.line(time.monotonic()))

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def training_text(figures: Mapping[str, Any]) -> str:
    """Share of the budget and loss of a training, or what it does before its first step."""
    if "progress" not in figures:
        return str(figures.get("stage", ""))
    loss = f", loss {figures['loss']:.3g}" if "loss" in figures else ""
    return f"{min(1.0, figures['progress']):.0%} of its budget{loss}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
