"""What a person sees while a run goes on: progress bars, on standard error."""

from __future__ import annotations

import time
from collections.abc import Sequence
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

from benchmarks.data.dataset import Case
from benchmarks.execution import progress
from benchmarks.execution.plan import Unit


class Terminal(progress.Progress):
    """Shows how a call of `benchmarks.api` goes on."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def step(self, text: str) -> AbstractContextManager[Any]:
        return self.console.status(text)

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="bold yellow"))

    def units(self, units: Sequence[Unit]) -> Bars:
        return Bars(units, self.console)


class _Stage(ProgressColumn):
    """What a unit is doing, and for how long it has been doing that."""

    def render(self, task: Task) -> Text:
        stage = task.fields.get("stage", "waiting")
        since = task.fields.get("since")
        style = {"done": "green", "waiting": "dim", "failed": "red"}.get(stage, "cyan")
        seconds = f" {time.monotonic() - since:.0f} s" if since is not None and stage not in ("done", "waiting") else ""
        return Text(f"{stage}{seconds}", style=style)


class Bars:
    """A bar per unit: its stage, and finished cases. Implements `benchmarks.execution.pool.Observer`."""

    def __init__(self, units: Sequence[Unit], console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("cases"),
            _Stage(),
            TimeElapsedColumn(),
            console=console,
            transient=False,
        )
        self._told: set[tuple[Path, str]] = set()
        self._tasks = {
            unit.folder: self._progress.add_task(unit.title, total=len(unit.cases), stage="waiting", since=None)
            for unit in units
        }

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, unit: Unit, stage: str) -> None:
        self._progress.update(self._tasks[unit.folder], stage=stage, since=time.monotonic())

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        self._progress.update(self._tasks[unit.folder], completed=finished_cases)

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        if (unit.folder, reason) not in self._told:  # all cases of a unit often fail for one reason
            self._told.add((unit.folder, reason))
            self._progress.console.print(Text(f"failed: {unit.title}, {case.case_id}: {reason}", style="red"))

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        self._progress.stop_task(self._tasks[unit.folder])
