"""Click curves against hand calculation and NumPy's trapezoid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.common.seeds import generator
from benchmarks.metrics.clicks import ClickCurve, curve_metrics, summarise_curves


def curve(*scores: float, first: int = 1) -> ClickCurve:
    return ClickCurve(scores, first)


def test_area_is_the_normalised_trapezoid() -> None:
    random = generator("curves")
    for _ in range(50):
        scores = random.random(random.integers(2, 12)).tolist()
        assert curve(*scores).area() == pytest.approx(np.trapezoid(scores) / (len(scores) - 1))


def test_area_bounds() -> None:
    assert curve(*[1.0] * 10).area() == 1
    assert curve(*[0.0] * 10).area() == 0
    assert curve(0.4).area() == 0.4
    assert curve(0.0, 1.0).area() == 0.5


def test_a_session_that_stops_early_keeps_its_last_score() -> None:
    assert curve(0.3, 0.8).at(5) == 0.8
    assert curve(0.3, 0.8).to(4) == curve(0.3, 0.8, 0.8, 0.8)
    assert curve(0.3, 0.8, 0.9).to(2) == curve(0.3, 0.8)


def test_clicks_to_reach() -> None:
    assert curve(0.5, 0.8, 0.7).clicks_to_reach(0.8) == (2, True)
    assert curve(0.9).to(10).clicks_to_reach(0.8) == (1, True)
    assert curve(0.5, 0.6).to(10).clicks_to_reach(0.8) == (10, False)
    assert curve(0.1, 0.2, 0.9).to(2).clicks_to_reach(0.8) == (2, False)


def test_one_curve() -> None:
    row = curve_metrics(curve(0.5, 0.7, 0.85).to(5), at=(0, 1, 3, 5, 10), qualities=(0.8, 0.9))
    assert row == pytest.approx(
        {
            "dice@1": 0.5,
            "dice@3": 0.85,
            "dice@5": 0.85,
            "auc": (0.6 + 0.775 + 0.85 + 0.85) / 4,
            "noc@0.8": 3,
            "failed@0.8": 0,
            "noc@0.9": 5,
            "failed@0.9": 1,
        }
    )


def test_a_box_without_a_click_is_the_score_at_no_click() -> None:
    """By hand: a box, then two corrections, within a budget of three clicks."""
    boxed = ClickCurve.of_steps([0, 1, 2], [0.6, 0.7, 0.9], budget=3)
    assert (boxed.first, boxed.budget, boxed.scores) == (0, 3, (0.6, 0.7, 0.9, 0.9))
    row = curve_metrics(boxed, at=(0, 1, 3), qualities=(0.5, 0.8))
    assert row == pytest.approx(
        {"dice@0": 0.6, "dice@1": 0.7, "dice@3": 0.9, "auc": (0.65 + 0.8 + 0.9) / 3,
         "noc@0.5": 0, "failed@0.5": 0, "noc@0.8": 2, "failed@0.8": 0}
    )  # fmt: skip


def test_a_round_of_several_clicks_counts_them_all() -> None:
    """Three lesions, a click for each in every round: after five clicks only the first round is answered."""
    three = ClickCurve.of_steps([3, 6, 9], [0.5, 0.7, 0.9], budget=9)
    assert three.scores == (0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 0.9)
    row = curve_metrics(three, at=(1, 3, 5, 10), qualities=(0.7,))
    assert "dice@1" not in row
    assert "dice@10" not in row
    assert (row["dice@3"], row["dice@5"], row["noc@0.7"]) == (0.5, 0.5, 6)
    with pytest.raises(ValueError, match="begins with 3 clicks"):
        three.at(1)


def test_a_carried_step_has_the_clicks_of_the_last_answer() -> None:
    assert ClickCurve.of_steps([1, 2, 2], [0.5, 1.0, 1.0], budget=3) == curve(0.5, 1.0, 1.0)


def test_summary_counts_failures_and_leaves_out_what_a_curve_does_not_have() -> None:
    curves = [curve(0.9).to(4), curve(0.5, 0.6).to(4), curve(0.2, 0.85).to(4)]
    summary = summarise_curves(curves, at=(1,), qualities=(0.8,))
    assert summary["curves"] == 3
    assert summary["failures@0.8"] == 1
    assert summary["noc@0.8"] == pytest.approx((1 + 4 + 2) / 3)
    assert summary["dice@1"] == pytest.approx((0.9 + 0.5 + 0.2) / 3)
    later = summarise_curves([*curves, curve(0.5, first=2)], at=(1, 2))
    assert "dice@1" not in later
    assert "dice@2" in later


def test_no_curve_and_nan_are_refused() -> None:
    for scores in ((), (0.5, math.nan)):
        with pytest.raises(ValueError, match="click curve"):
            ClickCurve(scores)
    with pytest.raises(ValueError, match="for each step"):
        ClickCurve.of_steps([1, 2], [0.5], budget=2)
    with pytest.raises(ValueError, match="no curve"):
        summarise_curves([])
