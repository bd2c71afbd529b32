"""Tables show every column, break no word of a heading where there is room, and show names as they are."""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from benchmarks.commands.bars import case_bar, download_bars
from benchmarks.commands.printing import print_json, print_mapping, print_rows, say

NAME = "a[bold]b[/x] :x: /data/[x]/y"
"""A label and a path that rich would read as markup, or as an emoji."""


def test_no_word_of_a_heading_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"trial": 0, "validation_dice": 0.1054, "status": "stopped early " * 9, "learning_rate": "x " * 40}
    print_rows("sweep", [row])
    shown = capsys.readouterr().out
    headings = shown.split("┡")[0]
    assert all(word in headings for word in ("trial", "validation", "dice", "status", "learning", "rate"))
    assert max(map(len, shown.splitlines())) <= 120


def test_a_table_that_is_too_wide_for_a_page_loses_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"heading{place}": place for place in range(20)}
    print_rows("wide", [row])
    shown = capsys.readouterr().out
    assert all(heading in shown for heading in row)
    print_rows("wide", [row], as_json=True)
    assert json.loads(capsys.readouterr().out) == [row]


def test_json_has_no_number_that_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"joules": math.nan, "deep": (1.5, -math.inf), "array": np.array([np.nan, 2.0]), "word": "NaN"}])

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == [{"joules": None, "deep": [1.5, None], "array": [None, 2.0], "word": "NaN"}]


def test_names_are_no_markup_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(f"rows of {NAME}", [{NAME: 1, "second": NAME}])
    shown = capsys.readouterr().out
    assert shown.count(NAME) == 3
    print_mapping(f"about {NAME}", {NAME: NAME})
    assert capsys.readouterr().out.count(NAME) == 3


def test_a_line_is_said_as_it_is_and_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"figure: {'long/' * 40}{NAME}")
    assert capsys.readouterr().err == f"figure: {'long/' * 40}{NAME}\n"


def test_names_are_no_markup_in_bars() -> None:
    file = io.StringIO()
    terminal = Console(file=file, force_terminal=True, color_system=None, width=160)
    with case_bar(terminal, NAME) as (opened, _):
        opened(SimpleNamespace(cases=[1]))
    with download_bars(terminal) as advance:
        advance(SimpleNamespace(path=f"file {NAME}"), 1, 2)
    assert f"checking {NAME}" in file.getvalue()
    assert f"file {NAME}" in file.getvalue()
