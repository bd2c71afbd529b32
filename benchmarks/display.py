"""What a person sees in a terminal: progress bars and tables. Nothing is computed here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import pandas as pd
from rich import box
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
from rich.table import Table
from rich.text import Text

from benchmarks.runner import Unit

SYNTHETIC_BANNER = (
    "SYNTHETIC DATA: generated phantoms. These numbers rank methods on phantoms; they say nothing about patients."
)


class _Stage(ProgressColumn):
    """What a unit is doing, and for how long it has been doing that."""

    def render(self, task: Task) -> Text:
        stage = task.fields.get("stage", "waiting")
        since = task.fields.get("since")
        style = {"done": "green", "waiting": "dim", "failed": "red"}.get(stage, "cyan")
        seconds = f" {time.monotonic() - since:.0f} s" if since is not None and stage not in ("done", "waiting") else ""
        return Text(f"{stage}{seconds}", style=style)


class Bars:
    """A bar per unit: its stage, and finished cases. Implements `benchmarks.runner.Observer`."""

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

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        self._progress.stop_task(self._tasks[unit.folder])


def show_leaderboard(board: pd.DataFrame, console: Console, notes: Sequence[str] = ()) -> None:
    """Print one table per dataset and track; methods that were given different things are never in one list."""
    if board.empty:
        console.print("no records yet")
        return
    synthetic = bool(board["synthetic"].any())
    if synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    tolerances = [str(column) for column in board if str(column).startswith("nsd@")]
    surface = "nsd@2mm" if "nsd@2mm" in tolerances else next(iter(tolerances), None)
    for (dataset, target, track, protocol), rows in board.groupby(
        ["dataset", "target", "track", "protocol"], sort=False
    ):
        name = f"{dataset} · {target} · given: {track} ({protocol})" + (" · SYNTHETIC" if synthetic else "")
        table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", no_wrap=True)
        table.add_column("Dice [95 % CI]", justify="right", no_wrap=True)
        if surface:
            table.add_column(surface.replace("nsd@", "NSD "), justify="right")
        for heading in ("HD95 mm", "lesion F1", "s open", "s prompt", "evaluated"):
            table.add_column(heading, justify="right")
        for row in rows.to_dict("records"):
            cells = [
                f"{row['method']} (floor)" if row["floor"] else str(row["method"]),
                f"{row['dice']:.3f} [{row['dice_low']:.3f}, {row['dice_high']:.3f}]",
                *([f"{row[surface]:.3f}"] if surface else []),
                f"{row['hd95_mm']:.1f}",
                f"{row['lesion_f1']:.2f}",
                f"{row['seconds_open']:.2f}",
                f"{row['seconds_segment']:.2f}",
                f"{row['cases'] - row['failed']}/{row['cases']}",
            ]
            style = "red" if row["failed"] else "dim" if row["floor"] else ""
            table.add_row(*map(Text, cells), style=style)
        console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"))


def show_mapping(title: str, values: Mapping[str, Any], console: Console) -> None:
    """Print names and values in two columns."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(Text(str(key)), Text(str(value)))
    console.print(table)


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print like mappings as a table; the first one gives the columns."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0] if rows else []:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console.print(table)
