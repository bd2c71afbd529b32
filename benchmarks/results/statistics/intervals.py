"""Means and their intervals over patients.

Lesions and targets of one patient are not independent: the patient is the unit ("cluster").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from benchmarks.common.seeds import derive_seed
from benchmarks.results.records import FAILED
from benchmarks.results.statistics.rows import SETTING, with_failures_as_worst

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; the ends are NaN where a single cluster allows none."""

    mean: float
    low: float
    high: float
    level: float
    values: int
    clusters: int


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, seed: object, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean over all values and its percentile interval from resampling whole clusters.

    A cluster weighs as many values as it has, in the mean and in every resample alike.

    Raises:
        ValueError: no value, a value that is not finite, or lengths that differ.
    """
    sums, counts = cluster_sums(values, clusters)
    mean = float(sums.sum() / counts.sum())
    low = high = math.nan
    if len(sums) > 1:
        drawn = _draws(len(sums), n, derive_seed("bootstrap", seed))
        means = (drawn @ sums) / (drawn @ counts)
        low, high = (float(end) for end in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(mean, low, high, level, int(counts.sum()), len(sums))


@lru_cache(maxsize=8)
def _draws(clusters: int, n: int, seed: int) -> Values:
    """How often each cluster is drawn, resamples × clusters; a table asks for the same ones again and again."""
    times = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=n)
    drawn: Values = times.astype(np.float64)
    drawn.setflags(write=False)
    return drawn


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


def summary(
    records: pd.DataFrame,
    metric: str,
    seed: object = 0,
    by: Sequence[str] = (),
    n: int = 2000,
    level: float = 0.95,
) -> pd.DataFrame:
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
        interval = bootstrap_mean(group[metric], group["patient"].astype(str), (seed, metric), n, level)
        failures = int((group["status"] == FAILED).sum())
        figures = (interval.values, interval.clusters, failures, interval.mean, interval.low, interval.high)
        rows.append((*key, *figures))
    return pd.DataFrame(rows, columns=[*groups, "n", "patients", "failed", "mean", "low", "high"])
