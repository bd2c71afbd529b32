"""Ranks under three schemes, and how they fare when the patients are drawn again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from benchmarks.common.seeds import generator
from benchmarks.results.statistics.intervals import Values
from benchmarks.results.statistics.paired import holm, wilcoxon

Scheme = Literal["mean-then-rank", "rank-then-mean", "rank-then-mean-min", "test-based"]
ALPHA = 0.05


@dataclass(frozen=True)
class Stability:
    """How a ranking fares when the patients are drawn again.

    Attributes:
        ranking: rank of each method on all patients, 1 the best.
        kendall_tau: between that ranking and each resampled one.
        frequency: method (rows) × rank (columns) → share of the resamples.
        low, high: the central interval of each method's rank.
    """

    ranking: pd.Series
    kendall_tau: Values
    frequency: pd.DataFrame
    low: pd.Series
    high: pd.Series


def ranking(table: pd.DataFrame, clusters: ArrayLike, larger_wins: bool, scheme: Scheme) -> pd.Series:
    """Rank of each method, 1 the best; equal methods share the better rank.

    Args:
        table: cases × methods.
        clusters: the patient of each case.
        scheme: "mean-then-rank" ranks the means; "rank-then-mean" ranks the methods in every case, equal ones
            sharing the mean of their places, then their mean ranks; "rank-then-mean-min" gives equal ones the
            better place, as challengeR does; "test-based" ranks the numbers of methods that each one beats
            significantly (one-sided Wilcoxon on patients, Holm over all ordered pairs, level `ALPHA`), which says
            nothing where no test can win: see `tests_can_win`.
    """
    directed = table if larger_wins else -table
    if scheme == "test-based":
        scores = _wins(directed, np.asarray(clusters))
    else:
        scores = _case_scores(directed, scheme).mean(axis=0)
    return pd.Series(_places(scores), index=table.columns)


def mean_case_ranks(table: pd.DataFrame, larger_wins: bool) -> pd.Series:
    """The mean over cases of each method's rank in the case, ties sharing the mean of their places."""
    return pd.Series(-_case_scores(table if larger_wins else -table, "rank-then-mean").mean(axis=0), table.columns)


def _case_scores(table: pd.DataFrame, scheme: Scheme) -> Values:
    """What a scheme averages over cases, cases × methods, more being better."""
    values = table.to_numpy(np.float64)
    if scheme == "mean-then-rank":
        return values
    ties = "min" if scheme == "rank-then-mean-min" else "average"
    return -stats.rankdata(-values.round(12), method=ties, axis=1)


def _places(scores: Values) -> NDArray[np.int64]:
    """Ranks along the last axis, 1 for the largest score; equal ones share the better rank."""
    return stats.rankdata(-scores.round(12), method="min", axis=-1).astype(np.int64)


def _wins(table: pd.DataFrame, clusters: NDArray[Any]) -> Values:
    pairs = list(permutations(range(table.shape[1]), 2))
    values = table.to_numpy(np.float64)
    p_values = [wilcoxon(values[:, a] - values[:, b], clusters, "greater").p_value for a, b in pairs]
    won = np.zeros(table.shape[1])
    for (a, _), p in zip(pairs, holm(p_values), strict=True):
        won[a] += p < ALPHA
    return won


def tests_can_win(methods: int, patients: int) -> bool:
    """Whether a method that is better in every patient could be called so after Holm's correction.

    The least p-value of the one-sided signed-rank test is 2⁻ⁿ, and there are methods × (methods − 1) ordered pairs.
    """
    return 2.0**-patients * methods * (methods - 1) <= ALPHA


def ranking_stability(
    table: pd.DataFrame,
    clusters: ArrayLike,
    larger_wins: bool,
    scheme: Scheme = "mean-then-rank",
    seed: object = 0,
    n: int = 1000,
    level: float = 0.95,
) -> Stability:
    """Rank again on `n` samples of the patients, drawn with replacement.

    A patient drawn twice counts as two patients in the tests. The test-based scheme takes about 0.1 s per draw
    with eight methods: ask for fewer draws there.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    drawn = generator("ranking", seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    directed = table if larger_wins else -table
    if scheme == "test-based":
        ranks = np.array([_places(_wins(*_resampled(directed, index, times))) for times in drawn])
    else:
        sums = np.array([np.bincount(index, column) for column in _case_scores(directed, scheme).T]).T
        ranks = _places((drawn @ sums) / (drawn @ np.bincount(index))[:, None])
    base = ranking(table, index, larger_wins, scheme)
    frequency = pd.DataFrame(
        {rank: (ranks == rank).mean(axis=0) for rank in range(1, table.shape[1] + 1)}, index=table.columns
    )
    low, high = np.quantile(ranks, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    orders, which = np.unique(ranks, axis=0, return_inverse=True)
    tau = np.array([_kendall_tau(base.to_numpy(), order) for order in orders])[which.ravel()]
    return Stability(base, tau, frequency, pd.Series(low, table.columns), pd.Series(high, table.columns))


def _resampled(
    table: pd.DataFrame, index: NDArray[np.integer], times: NDArray[np.integer]
) -> tuple[pd.DataFrame, NDArray[np.integer]]:
    """The cases of the drawn patients, and new names so that a patient drawn twice is two patients."""
    groups = [np.flatnonzero(index == patient) for patient in np.repeat(np.arange(len(times)), times)]
    copies = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return table.iloc[np.concatenate(groups)], copies


def _kendall_tau(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """τ-b; 1 for equal rankings, 0 where one of them ties all methods and the other does not."""
    if np.array_equal(a, b):
        return 1.0
    tau = float(stats.kendalltau(a, b).statistic)
    return tau if math.isfinite(tau) else 0.0
