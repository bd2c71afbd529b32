"""Click curves: how quality grows with clicks.

A curve is the sequence of scores (Dice, say) after click 1, 2, …, n. A session that stops early keeps its
last mask, so its last score is carried to the end of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.metrics.policy import MetricValue

TARGET_DICE = (0.7, 0.8, 0.85, 0.9)


def score_at(scores: Sequence[float], clicks: int) -> float:
    """The score after that many clicks; the last one if the session stopped before."""
    if clicks < 1:
        raise ValueError("clicks are counted from 1")
    _check(scores)
    return scores[min(clicks, len(scores)) - 1]


def area_under_curve(scores: Sequence[float], budget: int | None = None) -> float:
    """Mean height of the curve between click 1 and click `budget`, 0 to 1.

    The trapezoid area divided by (budget − 1), so that a method that is perfect from the first click has 1
    whatever the budget. With a budget of one click it is the score itself.
    """
    _check(scores)
    budget = len(scores) if budget is None else budget
    curve = [score_at(scores, click) for click in range(1, budget + 1)]
    if budget == 1:
        return curve[0]
    return (math.fsum(curve) - (curve[0] + curve[-1]) / 2) / (budget - 1)


def clicks_to_reach(scores: Sequence[float], quality: float, budget: int | None = None) -> tuple[int, bool]:
    """Clicks until the score first reaches `quality` (NoC@quality), and whether it was reached.

    If it never is, the whole budget counts: the usual convention, which flatters a method that fails often,
    so that the failures must be reported beside it.
    """
    _check(scores)
    budget = len(scores) if budget is None else budget
    for click, score in enumerate(scores[:budget], start=1):
        if score >= quality:
            return click, True
    return budget, False


def curve_metrics(
    scores: Sequence[float],
    budget: int | None = None,
    at: Sequence[int] = (1, 3, 5, 10),
    qualities: Sequence[float] = TARGET_DICE,
) -> dict[str, MetricValue]:
    """All figures of one curve: "dice@1", …, "auc", "noc@0.8", "failed@0.8" (0 or 1).

    Steps of `at` beyond the budget are left out.
    """
    budget = len(scores) if budget is None else budget
    values: dict[str, MetricValue] = {f"dice@{k}": score_at(scores, k) for k in at if k <= budget}
    values["auc"] = area_under_curve(scores, budget)
    for quality in qualities:
        clicks, reached = clicks_to_reach(scores, quality, budget)
        values[f"noc@{quality:g}"] = clicks
        values[f"failed@{quality:g}"] = int(not reached)
    return values


def summarise_curves(
    curves: Sequence[Sequence[float]],
    budget: int,
    at: Sequence[int] = (1, 3, 5, 10),
    qualities: Sequence[float] = TARGET_DICE,
) -> dict[str, MetricValue]:
    """Means over curves of one budget; "failures@q" counts the curves that never reached q, of "curves"."""
    if not curves:
        raise ValueError("no curve to summarise")
    each = [curve_metrics(scores, budget, at, qualities) for scores in curves]
    summary: dict[str, MetricValue] = {"curves": len(curves)}
    for key in each[0]:
        values = [float(row[key]) for row in each]
        if key.startswith("failed@"):
            summary[key.replace("failed@", "failures@")] = int(sum(values))
        else:
            summary[key] = math.fsum(values) / len(values)
    return summary


def _check(scores: Sequence[float]) -> None:
    if not scores or any(math.isnan(score) for score in scores):
        raise ValueError("a click curve needs at least one score, and no NaN: apply an empty-mask policy first")
