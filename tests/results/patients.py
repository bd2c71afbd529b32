"""Patients of one, two or five cases, and what tables say of them, by the definitions and SciPy alone."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

SIZES = (1, 2, 5)


def owners(patients: int = 12) -> np.ndarray:
    """The patient of each case, from 0."""
    return np.repeat(np.arange(patients), np.resize(SIZES, patients))


def means_of(values: ArrayLike, owner: ArrayLike) -> np.ndarray:
    """One mean for each patient."""
    return pd.Series(np.asarray(values)).groupby(np.asarray(owner)).mean().to_numpy()


def error_of_mean(values: ArrayLike, owner: ArrayLike) -> tuple[float, float]:
    """The jackknife patient by patient, and Satterthwaite's degrees of freedom from the covariance of the residuals."""
    numbers, names = np.asarray(values, float), np.asarray(owner)
    patients, n = np.unique(names), len(numbers)
    left_out = np.array([numbers[names != one].mean() for one in patients])
    error = math.sqrt((len(patients) - 1) / len(patients) * ((left_out - numbers.mean()) ** 2).sum())
    residuals = np.eye(n) - np.full((n, n), 1 / n)
    form = np.zeros((n, n))
    for one in patients:
        mine = (names == one).astype(float)
        form += residuals @ np.outer(mine, mine) @ residuals / (1 - mine.sum() / n)
    return error, float(np.trace(form) ** 2 / np.trace(form @ form))


def interval_of(values: ArrayLike, owner: ArrayLike, share: bool = False) -> list[float]:
    """Both ends of the 95 % interval; of a share by the delta method on its log-odds."""
    mean, (error, freedom) = float(np.mean(np.asarray(values))), error_of_mean(values, owner)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    if not share:
        return [mean - reach, mean + reach]
    middle, half = math.log(mean / (1 - mean)), reach / (mean * (1 - mean))
    return [1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))]


def flipped_p(differences: ArrayLike, owner: ArrayLike) -> float:
    """SciPy's permutation test on the sums of the patients, through all signs."""
    sums = pd.Series(np.asarray(differences)).groupby(np.asarray(owner)).sum().to_numpy()
    told = stats.permutation_test((sums,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    return float(told.pvalue)
