"""What a metric is worth when a mask is empty: a named, versioned object that is stored with every number.

Dice of two empty masks is 0/0 and the distance to an empty mask does not exist. Libraries disagree on what
to do, and a mean that drops the undefined cases rewards a method for missing lesions. Here the choice has a
name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.metrics.registry import is_metric, metric_of

Empty = Literal["none", "both", "prediction", "reference"]
Outcome = Literal["perfect", "worst", "skip"]
MetricValue = float | int | str


@dataclass(frozen=True)
class EmptyPolicy:
    """What counts when a mask is empty.

    Attributes:
        policy_id: "name/version"; the version rises when the meaning changes.
        both: outcome when reference and prediction are empty.
        one: outcome when only one of them is.
        note: where the rule is met.

    "skip" gives NaN: the case is left out and must be counted as left out (see `mean_under_policies`). It
    exists to show what other tools report; the default never skips.
    """

    policy_id: str
    both: Outcome = "perfect"
    one: Outcome = "worst"
    note: str = ""

    @property
    def skips(self) -> bool:
        """Whether a case may be left out."""
        return "skip" in (self.both, self.one)

    def value(self, key: str, empty: Empty, diagonal_mm: float) -> float:
        """The value of metric `key` for a case in which `empty` is not "none".

        Where a metric of an empty prediction is defined (`Metric.missed`), only "skip" changes it.
        """
        outcome = self.both if empty == "both" else self.one
        if outcome == "skip":
            return math.nan
        metric = metric_of(key)
        if metric.missed is not None and empty == "prediction":
            return metric.missed
        return metric.perfect if outcome == "perfect" else metric.worst_value(diagonal_mm)


WORST_VALUE = EmptyPolicy("worst-value/1", note="the default: nothing is dropped, a miss costs the most")
SKIP_BOTH = EmptyPolicy("skip-both-empty/1", both="skip", note="a mean over numbers only, as nnU-Net's summary")
SKIP_ANY = EmptyPolicy("skip-any-empty/1", both="skip", one="skip", note="undefined distances dropped, as MONAI's mean")
ZERO_FOR_BOTH = EmptyPolicy("zero-for-both/1", both="worst", note="2·TP / (sum + ε): agreement on nothing scores 0")

DEFAULT_POLICY = WORST_VALUE
POLICIES: dict[str, EmptyPolicy] = {
    policy.policy_id: policy for policy in (WORST_VALUE, SKIP_BOTH, SKIP_ANY, ZERO_FOR_BOTH)
}


def under_policy(row: Mapping[str, MetricValue], policy: EmptyPolicy) -> dict[str, MetricValue]:
    """The same case under another policy, from its stored row alone: no mask is needed.

    The row needs the keys "empty" and "diagonal_mm" that `evaluate_mask` writes. Rows without an empty
    mask, failed ones among them, keep their values.
    """
    changed = dict(row)
    changed["policy"] = policy.policy_id
    empty = row["empty"]
    if empty not in ("both", "prediction", "reference"):
        return changed
    for key in row:
        if is_metric(key):
            changed[key] = policy.value(key, empty, float(row["diagonal_mm"]))  # type: ignore[arg-type]
    return changed


def mean_under_policies(
    rows: Iterable[Mapping[str, MetricValue]],
    metric: str,
    policies: Iterable[EmptyPolicy] = tuple(POLICIES.values()),
) -> list[dict[str, MetricValue]]:
    """One method's sensitivity table: per policy the mean of `metric`, the cases counted and skipped."""
    rows = list(rows)
    table: list[dict[str, MetricValue]] = []
    for policy in policies:
        values = [float(under_policy(row, policy)[metric]) for row in rows]
        counted = [value for value in values if not math.isnan(value)]
        mean = math.fsum(counted) / len(counted) if counted else math.nan
        table.append(
            {
                "policy": policy.policy_id,
                "mean": mean,
                "cases": len(counted),
                "skipped": len(values) - len(counted),
            }
        )
    return table
