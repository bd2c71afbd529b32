"""One object for each metric, and everything that speaks of metrics follows from it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.metrics import Metric, Reference, evaluate_mask, failed_values, higher_is_better, register, registry
from benchmarks.metrics.comparison import Comparison
from benchmarks.prompting.protocol import Protocol as P
from benchmarks.results import leaderboard as lb
from benchmarks.results.leaderboard import metrics_of as table_of_metrics
from benchmarks.results.leaderboard import summarise
from benchmarks.results.mlflow.values import curves_of
from benchmarks.results.statistics import with_failures_as_worst
from benchmarks.results.tables import board_sheets
from tests.results.boards import row_of, unit_of

SPACING = (2.0, 1.0, 0.5)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def shift_of_centres(both: Comparison) -> float:
    """Distance between the centres of mass, mm."""
    centres = [np.argwhere(part.mask).mean(axis=0) + part.low for part in (both.reference, both.prediction)]
    return float(np.linalg.norm((centres[0] - centres[1]) * both.spacing))


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric that the bench does not know, registered for the time of a test."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    metric = Metric(
        "centre_mm", "centre", "mm", False, shift_of_centres, "distance of the centres", registry.DIAGONAL, 0.0
    )
    register(metric)
    return metric


def masks() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((8, 8, 8), bool)
    truth[2:4, 2:4, 2:4] = True
    return truth, np.roll(truth, 3, axis=2)


def test_the_worst_value_may_be_a_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 1, and not the diagonal of the image (18.3 mm here), in a failed row and in statistics."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    register(Metric("miss", "miss", "", False, lambda both: 0.5, "share that is missed", 1, 0))
    worst = failed_values(Reference(masks()[0], SPACING))["miss"]
    assert (worst, type(worst)) == (1, float)
    click = P("centre-click")
    unit = unit_of("a", "kits21", [click], 2)
    rows = pd.DataFrame([row_of(unit, case, click, 1, dice) for case, dice in enumerate((0.5, None))])
    rows["miss"] = [0.25, np.nan]
    assert with_failures_as_worst(rows, "miss")["miss"].tolist() == [0.25, 1.0]


def test_a_registered_metric_reaches_rows_failures_policies_tables_and_mlflow(shift: Metric) -> None:
    truth, moved = masks()
    reference = Reference(truth, SPACING)
    assert evaluate_mask(moved, reference)["centre_mm"] == pytest.approx(1.5)  # 3 voxels of 0.5 mm
    diagonal = math.hypot(16, 8, 4)
    assert failed_values(reference)["centre_mm"] == pytest.approx(diagonal)
    assert evaluate_mask(np.zeros_like(truth), reference)["centre_mm"] == pytest.approx(diagonal)
    assert not higher_is_better("centre_mm")
    click = P("centre-click")
    unit = unit_of("a", "kits21", [click], 2)
    rows = pd.DataFrame([row_of(unit, case, click, 1, dice) for case, dice in enumerate((0.5, None))])
    rows["centre_mm"] = [2.0, 6.0]
    assert summarise(rows)["centre_mm"].tolist() == [4.0]
    board = lb.leaderboard_of(rows, [unit])
    assert table_of_metrics(board)["centre_mm"].tolist() == [4.0]
    (sheet,) = board_sheets(board)
    assert "4.000" in sheet.rows[0]
    assert "centre mm" in sheet.headings
    assert curves_of(rows)[-1][1]["centre_mm"] == 4.0
    assert "| `centre_mm` |" in registry.markdown_table()


def test_two_metrics_never_share_a_key(shift: Metric) -> None:
    for wrong in (shift, Metric("a@b", "", "", True, shift.function, "", 0.0, 1.0)):
        with pytest.raises(ValueError, match="taken or holds"):
            register(wrong)


@pytest.mark.parametrize("tolerances", [(3.0,), (0.5, 2.0, 7.0)])
def test_whatever_tolerances_a_suite_has_reach_every_table(tolerances: tuple[float, ...]) -> None:
    keys = [f"nsd@{tolerance:g}mm" for tolerance in tolerances]
    truth, moved = masks()
    reference = Reference(truth, SPACING, tolerances)
    rows = [evaluate_mask(moved, reference), failed_values(reference)]
    assert [key for key in rows[1] if key.startswith("nsd")] == keys
    click = P("centre-click")
    unit = unit_of("a", "kits21", [click], 2)
    frame = pd.DataFrame([row_of(unit, case, click, 1, 0.5) for case in (0, 1)])
    frame = frame.drop(columns=[column for column in frame if str(column).startswith("nsd@")])
    frame = frame.assign(**{key: [float(row[key]) for row in rows] for key in keys})
    board = lb.leaderboard_of(frame, [unit])
    (sheet,) = board_sheets(board)
    assert ("NSD 2mm" if 2.0 in tolerances else "NSD 3mm") in sheet.headings
    assert [c for c in table_of_metrics(board) if c.startswith("nsd")] == keys
    assert {key.replace("@", "_at_") for key in keys} <= curves_of(frame)[-1][1].keys()


def test_what_was_never_shown_is_in_the_details_and_in_mlflow() -> None:
    click = P("centre-click")
    unit = unit_of("a", "kits21", [click], 1)
    rows = pd.DataFrame([row_of(unit, 0, click, 1, 0.5)])
    shown = table_of_metrics(lb.leaderboard_of(rows, [unit])).columns
    for key in ("hd_mm", "msd_mm", "rve", "lesion_sensitivity", "lesion_precision"):
        assert key in shown
        assert key in curves_of(rows)[-1][1]


def test_the_document_shows_the_list_as_it_is() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    told = re.search(r"<!-- made by .*? -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert told is not None
    assert told[1] == registry.markdown_table()
