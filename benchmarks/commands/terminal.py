"""What a person sees while a run goes on: bars in a terminal, a plain line every minute anywhere else."""

from __future__ import annotations

import threading
import time
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
from benchmarks.commands.tally import AT_REST, TO_TRAIN, Tally
from benchmarks.data.dataset import Case
from benchmarks.execution import progress
from benchmarks.execution.plan import Unit

LINE_EVERY_SECONDS = 60.0
STYLES = {"done": "green", "waiting": "dim", TO_TRAIN: "dim", "failed": "red", "not run": "red"}
LINES_BESIDE = 4  # of a terminal, for what is not a bar of a unit


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
        style = STYLES.get(stage, "cyan")
        seconds = f" {time.monotonic() - since:.0f} s" if since is not None and stage not in AT_REST else ""
        figures = f", {task.fields['figures']}" if stage == "training" and task.fields.get("figures") else ""
        return Text(f"{stage}{seconds}{figures}", style=style)


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
        self._tally.trained(unit.folder, min(1.0, float(figures.get("progress", 0.0))), time.monotonic())
        training = unit.folder.name if unit.job is None else unit.job.digest()
        self._tally.trainings[unit.folder] = training, f"{unit.title} {text}"
        self._progress.update(self._tasks[unit.folder], figures=text)

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        self._tally.advanced(unit.folder, finished_cases)
        self._progress.update(self._tasks[unit.folder], completed=finished_cases)
        if self._all is not None:
            time_left = self._tally.time_left(time.monotonic())
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
