"""What is told while a run goes on, in a terminal and outside one."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.commands import terminal
from benchmarks.commands.terminal import Bars


def unit(name: str, cases: int, training: str = "") -> Any:
    job = SimpleNamespace(digest=lambda: training) if training else None
    return SimpleNamespace(folder=Path(name), title=f"{name} · data", cases=tuple(range(cases)), job=job)


def test_outside_a_terminal_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LINE_EVERY_SECONDS", 0.05)
    file = io.StringIO()
    one = unit("ball", 4)
    with Bars([one], Console(file=file, force_terminal=False, width=120)) as bars:
        bars.advanced(one, 0)
        bars.stage(one, "evaluating")
        bars.advanced(one, 2)
        bars.failed(one, SimpleNamespace(case_id="c1"), "no reason")  # type: ignore[arg-type]
        time.sleep(0.3)
        bars.advanced(one, 4)
        bars.stage(one, "done")
        bars.finished_unit(one, None)
    lines = file.getvalue().splitlines()
    assert "failed: ball · data, c1: no reason" in lines
    assert any("2 of 4 cases, 1 failed, evaluating 1 unit, about " in line for line in lines)
    assert "done: ball · data, 4 cases" in lines
    assert "4 of 4 cases" in lines[-1]
    assert "\x1b" not in file.getvalue()
    assert len(lines) == len(file.getvalue().rstrip("\n").split("\n"))


def test_more_units_than_lines_have_one_bar_for_all_and_one_for_each_at_work() -> None:
    file = io.StringIO()
    units = [unit(f"m{number:02d}", 2) for number in range(33)]
    with Bars(units, Console(file=file, force_terminal=True, width=120, height=24)) as bars:
        for one in units:
            bars.advanced(one, 0)
        bars.stage(units[7], "evaluating")
        bars.advanced(units[7], 1)
        shown = [task.description for task in bars._progress.tasks if task.visible]
        assert shown == ["all units", "m07 · data"]
        whole = bars._progress.tasks[0]
        assert (whole.completed, whole.total) == (1, 66)
        bars.stage(units[7], "done")
        for one in units:
            bars.stage(one, "loading")
        assert sum(task.visible for task in bars._progress.tasks) <= 24 - terminal.LINES_BESIDE


def test_few_units_have_a_bar_each() -> None:
    units = [unit("a", 2), unit("b", 2)]
    bars = Bars(units, Console(file=io.StringIO(), force_terminal=True, width=120, height=24))
    assert [task.description for task in bars._progress.tasks if task.visible] == ["a · data", "b · data"]


def test_trainings_are_counted_as_such() -> None:
    file = io.StringIO()
    units = [unit("a", 7), unit("b", 7)]
    with Bars(units, Console(file=file, force_terminal=False, width=120), "trainings") as bars:
        for one in units:
            bars.advanced(one, 0)
            bars.stage(one, "training")
        bars.advanced(units[0], 1)
        bars.stage(units[0], "done")
        bars.finished_unit(units[0], None)
        bars.stage(units[1], "failed")
    lines = file.getvalue().splitlines()
    assert "done: a · data" in lines
    assert lines[-1] == "0 s: 1 of 2 trainings"  # the other has failed: nothing is left


def test_a_training_shows_its_share_of_the_budget_and_its_loss() -> None:
    assert terminal.training_text({"stage": "preparing"}) == "preparing"
    assert terminal.training_text({"stage": "training", "step": 3, "progress": 0.256}) == "26% of its budget"
    file = io.StringIO()
    one = unit("tags-tiny", 4)
    with Bars([one], Console(file=file, force_terminal=False, width=120)) as bars:
        bars.stage(one, "training")
        bars.training(one, {"stage": "training", "step": 9, "progress": 0.5, "loss": 0.12345})
        told = bars._tally.line(time.monotonic())
        bars.stage(one, "evaluating")
        assert "budget" not in bars._tally.line(time.monotonic())
    assert "training 1 unit, trained so far: tags-tiny · data 50% of its budget, loss 0.123" in told


def test_units_of_one_training_have_one_place_in_the_line() -> None:
    file = io.StringIO()
    units = [unit("plain", 4, "a"), unit("mirrored", 4, "a"), unit("other", 4, "b")]
    with Bars(units, Console(file=file, force_terminal=False, width=120)) as bars:
        for one in units:
            bars.stage(one, "training")
            bars.training(one, {"stage": "training", "step": 9, "progress": 0.5})
        told = bars._tally.line(time.monotonic())
    assert "trained so far: plain · data 50% of its budget; other · data 50% of its budget, " in told


def test_labels_and_paths_are_no_markup() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=160)
    shown, name = terminal.Terminal(console), "a[bold]b[/x] :x: /data/[x]/y"
    with shown.step(f"reading {name}"):
        shown.line(f"line {name}")
        shown.note(f"note {name}")
    shown.hosts([{"host": f"host {name}"}])
    with shown.units([unit(name, 2)]) as bars:
        bars.failed(unit(name, 2), SimpleNamespace(case_id=name), name)  # type: ignore[arg-type]
    told = file.getvalue()
    assert all(f"{word} {name}" in told for word in ("reading", "line", "note", "host"))
    assert f"failed: {name} · data, {name}: {name}" in told
    assert f"\x1b[2K{name} · data " in told  # the bar
