"""Tables show every column, and break no word of a heading where there is room."""

from __future__ import annotations

import json

import pytest

from benchmarks.commands.printing import print_rows


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
