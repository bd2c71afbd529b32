"""Click curves: how quality grows with clicks.

A curve holds the score (Dice, say) after every number of clicks, from those of the first prompt (none, if that is a
box) to the budget. A session that stops early keeps its last mask: its score is carried to the end of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.metrics.policy import MetricValue

TARGET_DICE = (0.7, 0.8, 0.85, 0.9)
AT_CLICKS = (0, 1, 3, 5, 10)


@dataclass(frozen=True)
class ClickCurve:
    """The scores after `first`, `first` + 1, … clicks.

    Attributes:
        first: clicks of the first prompt.

    Raises:
        ValueError: no score, one that is NaN, or fewer than no clicks.
    """

    scores: tuple[float, ...]
    first: int = 1

    def __post_init__(self) -> None:
        if not self.scores or any(math.isnan(score) for score in self.scores):
            raise ValueError("a click curve needs at least one score, and no NaN: apply an empty-mask policy first")
        if self.first < 0:
            raise ValueError(f"a first prompt of {self.first} clicks")

    @classmethod
    def of_steps(cls, clicks: Sequence[int], scores: Sequence[float], budget: int) -> ClickCurve:
        """From the clicks given by each step and the score there: after k clicks the latest step with no more counts.

        A step that adds several clicks at once (one for each lesion, say) leaves the score as it was in between.
        """
        if not clicks or len(clicks) != len(scores):
            raise ValueError(f"a click curve needs a score for each step, not {len(scores)} for {len(clicks)}")
        first = min(clicks)
        by_click = []
        for count in range(first, max(budget, first) + 1):
            reached = [score for used, score in zip(clicks, scores, strict=True) if used <= count]
            by_click.append(float(reached[-1]))
        return cls(tuple(by_click), first)

    @property
    def budget(self) -> int:
        """The clicks after which the curve ends."""
        return self.first + len(self.scores) - 1

    def at(self, clicks: int) -> float:
        """The score after that many clicks; the last one if the session stopped before.

        Raises:
            ValueError: fewer clicks than the first prompt has.
        """
        if clicks < self.first:
            raise ValueError(f"this curve begins with {self.first} clicks")
        return self.scores[min(clicks - self.first, len(self.scores) - 1)]

    def to(self, budget: int) -> ClickCurve:
        """The same curve cut or carried on to a budget."""
        last = max(budget, self.first)
        return ClickCurve(tuple(self.at(click) for click in range(self.first, last + 1)), self.first)

    def area(self) -> float:
        """Mean height of the curve between its first click and its last, 0 to 1.

        The trapezoid area divided by its width, so that a method that is perfect from the start has 1 whatever the
        budget. A curve of one prompt has its score.
        """
        if len(self.scores) == 1:
            return self.scores[0]
        return (math.fsum(self.scores) - (self.scores[0] + self.scores[-1]) / 2) / (len(self.scores) - 1)

    def clicks_to_reach(self, quality: float) -> tuple[int, bool]:
        """Clicks until the score first reaches `quality` (NoC@quality), and whether it was reached.

        If it never is, the whole budget counts: the usual convention, which flatters a method that fails often, so
        that the failures must be reported beside it.
        """
        for place, score in enumerate(self.scores):
            if score >= quality:
                return self.first + place, True
        return self.budget, False


def curve_metrics(
    curve: ClickCurve, at: Sequence[int] = AT_CLICKS, qualities: Sequence[float] = TARGET_DICE
) -> dict[str, MetricValue]:
    """All figures of one curve: "dice@1", …, "auc", "noc@0.8", "failed@0.8" (0 or 1).

    Numbers of clicks before the first prompt's or beyond the budget are left out of `at`.
    """
    values: dict[str, MetricValue] = {f"dice@{k}": curve.at(k) for k in at if curve.first <= k <= curve.budget}
    values["auc"] = curve.area()
    for quality in qualities:
        clicks, reached = curve.clicks_to_reach(quality)
        values[f"noc@{quality:g}"] = clicks
        values[f"failed@{quality:g}"] = int(not reached)
    return values


def summarise_curves(
    curves: Sequence[ClickCurve], at: Sequence[int] = AT_CLICKS, qualities: Sequence[float] = TARGET_DICE
) -> dict[str, MetricValue]:
    """Means over curves; "failures@q" counts the curves that never reached q, of "curves".

    A figure that a curve does not have, such as "dice@1" where the first prompt held three clicks, has no mean.
    """
    if not curves:
        raise ValueError("no curve to summarise")
    each = [curve_metrics(curve, at, qualities) for curve in curves]
    summary: dict[str, MetricValue] = {"curves": len(curves)}
    for key in (key for key in each[0] if all(key in row for row in each)):
        values = [float(row[key]) for row in each]
        if key.startswith("failed@"):
            summary[key.replace("failed@", "failures@")] = int(sum(values))
        else:
            summary[key] = math.fsum(values) / len(values)
    return summary
