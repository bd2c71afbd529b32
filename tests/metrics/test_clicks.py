"""Click curves against hand calculation and NumPy's trapezoid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.common.seeds import generator
from benchmarks.metrics.clicks import (
    area_under_curve,
    clicks_to_reach,
    curve_metrics,
    score_at,
    summarise_curves,
)


def test_area_is_the_normalised_trapezoid() -> None:
    random = generator("curves")
    for _ in range(50):
        scores = random.random(random.integers(2, 12)).tolist()
        assert area_under_curve(scores) == pytest.approx(np.trapezoid(scores) / (len(scores) - 1))


def test_area_bounds() -> None:
    assert area_under_curve([1.0] * 10) == 1
    assert area_under_curve([0.0] * 10) == 0
    assert area_under_curve([0.4]) == 0.4
    assert area_under_curve([0.0, 1.0]) == 0.5


def test_a_session_that_stops_early_keeps_its_last_score() -> None:
    assert score_at([0.3, 0.8], 5) == 0.8
    assert area_under_curve([0.3, 0.8], 4) == pytest.approx(area_under_curve([0.3, 0.8, 0.8, 0.8]))


def test_clicks_to_reach() -> None:
    assert clicks_to_reach([0.5, 0.8, 0.7], 0.8) == (2, True)
    assert clicks_to_reach([0.9], 0.8, 10) == (1, True)
    assert clicks_to_reach([0.5, 0.6], 0.8, 10) == (10, False)
    assert clicks_to_reach([0.1, 0.2, 0.9], 0.8, 2) == (2, False)


def test_one_curve() -> None:
    row = curve_metrics([0.5, 0.7, 0.85], budget=5, at=(1, 3, 5, 10), qualities=(0.8, 0.9))
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


def test_summary_counts_failures() -> None:
    summary = summarise_curves([[0.9], [0.5, 0.6], [0.2, 0.85]], budget=4, at=(1,), qualities=(0.8,))
    assert summary["curves"] == 3
    assert summary["failures@0.8"] == 1
    assert summary["noc@0.8"] == pytest.approx((1 + 4 + 2) / 3)
    assert summary["dice@1"] == pytest.approx((0.9 + 0.5 + 0.2) / 3)


@pytest.mark.parametrize("scores", [[], [0.5, math.nan]])
def test_no_curve_and_nan_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="click curve"):
        area_under_curve(scores)
