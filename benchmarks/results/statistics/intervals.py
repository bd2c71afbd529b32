"""Means and their intervals over patients.

Lesions and targets of one patient are not independent: the patient is the unit ("cluster").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from benchmarks.results.records import FAILED
from benchmarks.results.statistics.rows import SETTING, higher_is_better, with_failures_as_worst

Values = NDArray[np.float64]
Scale = Literal["share", "positive", "difference"]
"""What a mean is a mean of: shares between 0 and 1, lengths or times from 0 on, or differences of either sign."""

FEW_PATIENTS = 20
"""Below this many patients an interval hangs on the shape of a distribution that so few do not show: it is marked."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; the ends are NaN where a single cluster allows none."""

    mean: float
    low: float
    high: float
    level: float
    values: int
    clusters: int


def mean_interval(values: ArrayLike, clusters: ArrayLike, scale: Scale = "difference", level: float = 0.95) -> Interval:
    """Mean over all values and its t interval over clusters of unequal size.

    The standard error is the jackknife's, which leaves out one cluster at a time; the degrees of freedom are
    Satterthwaite's for clusters of these sizes (Bell and McCaffrey 2002), one less than the clusters if all are alike.
    The interval of a share is made on the log-odds of the mean, that of a length or time on its logarithm: it stays in
    range and reaches farther to the side of the long tail. Where all clusters agree the interval has no width.

    Raises:
        ValueError: no value, a value that is not finite, or lengths that differ.
    """
    sums, counts = cluster_sums(values, clusters)
    mean, error, freedom = mean_and_error(sums, counts)
    low = high = math.nan
    if len(sums) > 1:
        reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        low, high = interval_ends(mean, reach, scale)
    return Interval(mean, low, high, level, int(counts.sum()), len(sums))


def mean_and_error(sums: Values, counts: Values) -> tuple[float, float, float]:
    """Mean over all values of all clusters, its jackknife error and degrees of freedom; NaN for one cluster."""
    total = counts.sum()
    mean = float(sums.sum() / total)
    if len(sums) < 2:
        return mean, math.nan, math.nan
    without = (sums.sum() - sums) / (total - counts)
    error = math.sqrt((len(sums) - 1) / len(sums) * float(((without - mean) ** 2).sum()))
    return mean, error, degrees_of_freedom(counts)


def degrees_of_freedom(counts: Values) -> float:
    """Of the variance of a mean over clusters of these sizes, if all values were alike and independent."""
    if len(counts) < 2:
        return math.nan
    total = counts.sum()
    shared = counts**2 / (total - counts)
    return float(total**2 / ((counts**2).sum() + shared.sum() ** 2 - (shared**2).sum()))


def interval_ends(mean: float, reach: float, scale: Scale) -> tuple[float, float]:
    """The ends on the scale's own axis; `reach` is half a width around the mean."""
    if scale == "difference" or reach == 0 or mean <= 0 or (scale == "share" and mean >= 1):
        return mean - reach, mean + reach
    if scale == "positive":
        return mean * math.exp(-reach / mean), mean * math.exp(min(reach / mean, 700.0))
    odds, width = special.logit(mean), reach / (mean * (1 - mean))
    return float(special.expit(odds - width)), float(special.expit(odds + width))


def scale_of(metric: str) -> Scale:
    """A metric of which more is better lies between 0 and 1; the others are lengths, errors, times or counts."""
    return "share" if higher_is_better(metric) else "positive"


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> Values:
    """The mean of each cluster, in the order of the sorted cluster names."""
    sums, counts = cluster_sums(values, clusters)
    return sums / counts


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[Values, Values]:
    numbers = np.asarray(values, dtype=np.float64)
    names = np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape or numbers.size == 0:
        raise ValueError(f"values {numbers.shape} and clusters {names.shape}: two lists of equal length are needed")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(numbers))} of {numbers.size} values are not finite")
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, numbers).astype(np.float64), np.bincount(index).astype(np.float64)


def summary(records: pd.DataFrame, metric: str, by: Sequence[str] = (), level: float = 0.95) -> pd.DataFrame:
    """Mean and patient-clustered interval of a metric for each method in each setting.

    Failed rows count as the worst value and are counted in `failed`.

    Args:
        by: further columns to group by, such as a size class.

    Returns:
        One row per method × dataset × target × protocol × step (× `by`): n, patients, failed,
        mean, low, high.
    """
    groups = ["method", *SETTING, *by]
    rows = []
    for key, group in with_failures_as_worst(records, metric).groupby(groups, sort=True, dropna=False, observed=True):
        interval = mean_interval(group[metric], group["patient"].astype(str), scale_of(metric), level)
        failures = int((group["status"] == FAILED).sum())
        figures = (interval.values, interval.clusters, failures, interval.mean, interval.low, interval.high)
        rows.append((*key, *figures))
    return pd.DataFrame(rows, columns=[*groups, "n", "patients", "failed", "mean", "low", "high"])
