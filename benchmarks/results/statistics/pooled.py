"""Over several data sets: each list (a data set and target) weighs the same, whatever its number of cases.

The mean is that of the lists' means. Patients are the clusters and data sets the strata: what varies is which patients
a data set has, not which data sets there are. A patient with several targets is one patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from benchmarks.results.statistics.intervals import Interval, Scale, Values, degrees_of_freedom, interval_ends
from benchmarks.results.statistics.paired import FLIPS, Equivalence, PairedTest, equivalence_of, sign_flip


class Strata:
    """Which list, patient and data set each value of a table belongs to; made once, used for every method.

    Args:
        lists: the list of each value.
        datasets: its data set; a list lies in one.
        patients: its patient, named within the data set.
    """

    def __init__(self, lists: Sequence[str], datasets: Sequence[str], patients: Sequence[str]) -> None:
        names = [f"{dataset}/{patient}" for dataset, patient in zip(datasets, patients, strict=True)]
        _, self._list = np.unique(np.asarray(lists), return_inverse=True)
        _, first, self._patient = np.unique(np.asarray(names), return_index=True, return_inverse=True)
        _, self._stratum = np.unique(np.asarray(datasets)[first], return_inverse=True)
        self._counts = self._table(np.ones(len(names)))
        self._freedom = [
            degrees_of_freedom(self._counts[self._stratum == one].sum(axis=1)) for one in np.unique(self._stratum)
        ]

    @property
    def patients(self) -> int:
        return len(self._counts)

    @property
    def weights(self) -> Values:
        """What each value adds to the mean of the lists' means."""
        sizes = self._counts.sum(axis=0)
        return 1 / (sizes[self._list] * len(sizes))

    def _table(self, values: Values) -> Values:
        """Sums by patient and list."""
        shape = (int(self._patient.max()) + 1, int(self._list.max()) + 1)
        flat = np.bincount(self._patient * shape[1] + self._list, values, shape[0] * shape[1])
        return flat.reshape(shape).astype(np.float64)

    def mean(self, values: Values) -> tuple[float, float, float]:
        """The mean of the lists' means, its standard error, and the degrees of freedom (Welch and Satterthwaite).

        The error is the jackknife's, one patient left out at a time within each data set; NaN where a list has one
        patient only.
        """
        sums = self._table(values)
        total, sizes = sums.sum(axis=0), self._counts.sum(axis=0)
        mean = float((total / sizes).mean())
        left = sizes - self._counts
        if (left == 0).any():
            return mean, math.nan, math.nan
        away = ((total - sums) / left).mean(axis=1) - mean
        counts = np.bincount(self._stratum)
        variances = (counts - 1) / counts * np.bincount(self._stratum, away**2)
        whole = float(variances.sum())
        parts = float((variances**2 / np.array(self._freedom)).sum())
        return mean, math.sqrt(whole), whole**2 / parts if parts > 0 else float(sum(self._freedom))


def pooled_interval(values: ArrayLike, strata: Strata, scale: Scale = "difference", level: float = 0.95) -> Interval:
    """The mean of the lists' means and its t interval over patients within data sets."""
    numbers = np.asarray(values, np.float64)
    mean, error, freedom = strata.mean(numbers)
    low = high = math.nan
    if math.isfinite(error):
        low, high = interval_ends(mean, float(stats.t.ppf((1 + level) / 2, freedom)) * error, scale)
    return Interval(mean, low, high, level, len(numbers), strata.patients)


def pooled_sign_flip(differences: ArrayLike, strata: Strata, seed: object, n: int = FLIPS) -> PairedTest:
    """Permutation test of the mean of the lists' mean differences: signs of whole patients are flipped `n` times."""
    weighted = np.asarray(differences, np.float64) * strata.weights
    test = sign_flip(weighted, strata._patient, seed, n)
    return PairedTest(float(weighted.sum()), test.p_value, test.clusters)


def pooled_equivalence(differences: ArrayLike, margin: float, strata: Strata, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests of the mean of the lists' mean differences."""
    return equivalence_of(*strata.mean(np.asarray(differences, np.float64)), margin, alpha)
