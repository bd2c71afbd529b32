"""The challenge's figures in a table of the leaderboard, against its definitions worked by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from benchmarks.prompting.protocol import Protocol
from benchmarks.results.leaderboard import details
from benchmarks.results.tables import details_page, render
from tests.results.boards import row_of, unit_of

CHALLENGE = Protocol("iterative", rounds=6, start="box", corrections="cvpr25")
DICE = {"good": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "poor": (0.1, 0.2, 0.2, 0.4, None, None)}
SURFACE = (0.5, 0.5, 0.6, 0.7, 0.8, 0.9)


def study(protocol: Protocol = CHALLENGE) -> tuple[pd.DataFrame, list[dict]]:
    units = [unit_of(method, "kits21", [protocol], 1) for method in DICE]
    rows = [
        row_of(unit, 0, protocol, step, dice, **({} if dice is None else {"nsd@2mm": SURFACE[step - 1]}))
        for unit in units
        for step, dice in enumerate(DICE[unit["method"]], start=1)
    ]
    return pd.DataFrame(rows), units


def test_the_figures_are_those_of_the_challenge() -> None:
    table = details(*study(), only=["cvpr25"])["cvpr25"].set_index("method")
    assert list(table.index) == ["good", "poor"]
    # trapezoids under the five steps with clicks: the sum less half of the first and of the last
    assert table.loc["good", "dsc_auc"] == pytest.approx(0.6 + 0.7 + 0.8 + 0.9 + 1.0 - (0.6 + 1.0) / 2)
    assert table.loc["good", "nsd_auc"] == pytest.approx(0.5 + 0.6 + 0.7 + 0.8 + 0.9 - (0.5 + 0.9) / 2)
    assert table.loc["poor", "dsc_auc"] == pytest.approx(0.2 + 0.2 + 0.4 - 0.2 / 2)
    assert table.loc["poor", "nsd_auc"] == pytest.approx(0.7)  # a Dice of 0.2 or less has no surface Dice
    assert table.loc["poor", ["dsc_final", "nsd_final"]].tolist() == [0.0, 0.0]  # failed


def test_it_is_shown_where_the_protocol_is_the_challenges() -> None:
    rows, units = study()
    assert "DSC AUC" in render(details_page(rows, units, only=["cvpr25"]), "markdown")
    other = Protocol("iterative", rounds=6, start="box")
    assert details(*study(other), only=["cvpr25"])["cvpr25"].empty


def test_a_method_of_other_tolerances_stands_apart_and_spoils_nothing() -> None:
    rows, units = study()
    alone = [unit_of("other", "kits21", [CHALLENGE], 1, tolerances_mm=[1.0])]
    apart = [row_of(alone[0], 0, CHALLENGE, step, 0.5, **{"nsd@2mm": math.nan}) for step in range(1, 7)]
    units = [unit | {"tolerances_mm": [1.0, 2.0]} for unit in units]
    table = details(pd.concat([rows, pd.DataFrame(apart)]), [*units, *alone], only=["cvpr25"])["cvpr25"]
    assert list(table["method"]) == ["good", "poor"]
