"""Two methods on the same cases: tests and effect sizes on patients, and the comparison of all pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from benchmarks.common.errors import UserError
from benchmarks.common.seeds import derive_seed
from benchmarks.results.statistics.intervals import Values, cluster_means, cluster_sums, mean_and_error, mean_interval
from benchmarks.results.statistics.rows import case_table, higher_is_better, with_target, without_success

EXACT_CLUSTERS = 13
"""Up to so many clusters a signed-rank test goes through all signs."""

FLIPS = 9999
"""Random flips of a sign-flip test, unless more tests are corrected together than these can tell apart."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired test on clusters."""

    statistic: float
    p_value: float
    clusters: int


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests: `equivalent` if the mean difference lies within ± margin at level alpha."""

    p_value: float
    margin: float
    low: float
    high: float
    equivalent: bool


def flips_for(tests: int) -> int:
    """So many random flips that the clearest of so many tests can reach half of 0.05 after Holm's correction."""
    return max(FLIPS, 40 * tests)


def wilcoxon(differences: ArrayLike, clusters: ArrayLike, alternative: str = "two-sided") -> PairedTest:
    """Wilcoxon signed-rank test on the mean difference of each cluster; p = 1 if all are zero.

    Zeros are dropped. Up to `EXACT_CLUSTERS` clusters all signs of the ranks are gone through, so the p-value is
    exact with ties too; SciPy does the same there, in Python and slowly.
    """
    means = _means(differences, clusters)
    moved = means[means != 0]
    if moved.size == 0:
        return PairedTest(0.0, 1.0, len(means))
    if moved.size <= EXACT_CLUSTERS:
        return PairedTest(*_exact_signed_rank(moved, alternative), len(means))
    result = stats.wilcoxon(means, alternative=alternative)
    return PairedTest(float(result.statistic), float(result.pvalue), len(means))


def _means(differences: ArrayLike, clusters: ArrayLike) -> Values:
    """The mean of each cluster; what differs by the rounding of a subtraction alone is equal, so that ties are ties."""
    return cluster_means(differences, clusters).round(12)


def _exact_signed_rank(values: Values, alternative: str) -> tuple[float, float]:
    """SciPy's statistic and the exact p-value for values that are not zero."""
    ranks = stats.rankdata(np.abs(values))
    upwards, downwards = float(ranks[values > 0].sum()), float(ranks[values < 0].sum())
    signs, _ = _flips(len(ranks), 2**EXACT_CLUSTERS, seed=0)
    drawn = (signs > 0) @ ranks
    greater, less = float((drawn >= upwards - 1e-9).mean()), float((drawn <= upwards + 1e-9).mean())
    if alternative == "two-sided":
        return min(upwards, downwards), min(1.0, 2 * min(greater, less))
    return upwards, greater if alternative == "greater" else less


def sign_flip(differences: ArrayLike, clusters: ArrayLike, seed: object, n: int = FLIPS) -> PairedTest:
    """Permutation test of the mean difference: the signs of whole clusters are flipped.

    All flips are gone through when there are no more than `n` of them, so the p-value is exact; otherwise `n`
    random ones and the identity are.
    """
    sums, counts = cluster_sums(differences, clusters)
    signs, exact = _flips(len(sums), n, derive_seed("sign-flip", seed))
    observed = abs(sums.sum())
    reached = np.abs(signs @ sums) >= observed - 1e-12 * np.abs(sums).sum()
    p_value = reached.mean() if exact else (1 + reached.sum()) / (1 + len(signs))
    return PairedTest(float(sums.sum() / counts.sum()), float(p_value), len(sums))


@lru_cache(maxsize=4)
def _flips(clusters: int, n: int, seed: int) -> tuple[Values, bool]:
    exact = clusters < 63 and 2**clusters <= n + 1
    if exact:
        bits = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        signs = np.where(bits, -1.0, 1.0)
    else:
        signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (n, clusters))
    signs.setflags(write=False)
    return signs, exact


def tost(differences: ArrayLike, margin: float, clusters: ArrayLike, alpha: float = 0.05) -> Equivalence:
    """Equivalence of two methods within ± `margin`: two one-sided t tests of the mean over all values.

    Mean, error and degrees of freedom are those of `mean_interval`: what is found equivalent is the difference that is
    shown, also where clusters differ in size. The interval is the matching one of level 1 − 2 alpha: it lies within
    ± margin just when the test says so.

    Raises:
        UserError: a margin that is not positive; it must be stated before looking at the data.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"equivalence needs a positive margin, not {margin}")
    return equivalence_of(*mean_and_error(*cluster_sums(differences, clusters)), margin, alpha)


def equivalence_of(mean: float, error: float, freedom: float, margin: float, alpha: float) -> Equivalence:
    """Two one-sided t tests of a mean with its standard error, NaN if nothing tells it, and degrees of freedom."""
    if not math.isfinite(error):
        return Equivalence(1.0, margin, math.nan, math.nan, False)
    p_value = float(abs(mean) >= margin) if error == 0 else float(stats.t.sf((margin - abs(mean)) / error, freedom))
    reach = float(stats.t.ppf(1 - alpha, freedom)) * error
    return Equivalence(p_value, margin, mean - reach, mean + reach, p_value < alpha)


def cohen_d(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Paired effect size d_z: mean over standard deviation of the clusters' means; 0 if all are zero."""
    means = _means(differences, clusters)
    if not means.any():
        return 0.0
    spread = float(means.std(ddof=1)) if len(np.unique(means)) > 1 else 0.0
    return float(means.mean()) / spread if spread > 0 else math.copysign(math.inf, float(means.mean()))


def rank_biserial(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation: (W⁺ − W⁻) / (W⁺ + W⁻), −1 to 1; 0 if all are zero."""
    means = _means(differences, clusters)
    means = means[means != 0]
    if means.size == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(means))
    return float((ranks * np.sign(means)).sum() / ranks.sum())


def holm(p_values: ArrayLike) -> Values:
    """Holm's step-down adjustment for a family of tests, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def comparisons(
    records: pd.DataFrame,
    metric: str,
    seed: object = 0,
    margin: float | None = None,
    reference: str | None = None,
    tests: int = 0,
) -> pd.DataFrame:
    """Paired comparisons of methods in one protocol and step, Holm-corrected over all pairs of the table.

    All pairs share the flips: each p-value is what it would be alone, and Holm's
    correction holds whatever the dependence between the tests.

    Args:
        margin: the smallest difference that matters; gives the equivalence test if stated.
        reference: compare every method with this one only; None compares all pairs.
        tests: how many the caller corrects together, where these are more than the pairs of the table.

    Returns:
        One row per pair (a, b): mean of a − b with interval, Wilcoxon and sign-flip p (raw and
        Holm-adjusted), Cohen's d, rank-biserial r, and the equivalence test. `better` names the better method,
        whatever the metric's direction; `both_failed` says that neither has a case above the worst value.
    """
    table, patients = case_table(records, metric)
    names = [str(name) for name in table.columns]
    if reference is not None and reference not in names:
        raise UserError(f"no method '{reference}' in these records")
    pairs = [(a, reference) for a in names if a != reference] if reference else list(combinations(names, 2))
    failed = without_success(with_target(records), metric)
    settings = _Settings(seed, margin, flips_for(max(tests, len(pairs))))
    rows = [_comparison(table, patients, (a, b), higher_is_better(metric), settings) for a, b in pairs]
    result = pd.DataFrame([row | {"both_failed": {row["a"], row["b"]} <= failed} for row in rows])
    for test in ("wilcoxon", "sign_flip") if rows else ():
        result[f"p_{test}_holm"] = holm(result[f"p_{test}"])
    return result


@dataclass(frozen=True)
class _Settings:
    """Of the tests; see `comparisons`."""

    seed: object
    margin: float | None
    flips: int


def _comparison(
    table: pd.DataFrame, patients: pd.Series, pair: tuple[str, str], larger_wins: bool, settings: _Settings
) -> dict[str, Any]:
    a, b = pair
    difference, clusters = (table[a] - table[b]).to_numpy(), patients.to_numpy()
    interval = mean_interval(difference, clusters)
    row: dict[str, Any] = {
        "a": a,
        "b": b,
        "n": interval.values,
        "patients": interval.clusters,
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "better": "" if interval.mean == 0 else a if (interval.mean > 0) == larger_wins else b,
        "p_wilcoxon": wilcoxon(difference, clusters).p_value,
        "p_sign_flip": sign_flip(difference, clusters, settings.seed, settings.flips).p_value,
        "cohen_d": cohen_d(difference, clusters),
        "rank_biserial": rank_biserial(difference, clusters),
    }
    if settings.margin is not None:
        same = tost(difference, settings.margin, clusters)
        row |= {"margin": settings.margin, "p_equivalence": same.p_value, "equivalent": same.equivalent}
    return row
