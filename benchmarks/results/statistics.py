"""Intervals, paired tests, rankings: what a table of records supports, and how firmly.

Lesions and targets of one patient are not independent, so the unit of resampling, flipping and testing is
the patient ("cluster"). Nothing is dropped in silence: a missing row is an error, a failed one counts as the
worst value and is listed, a value that is not finite is refused. The one thing that is left out is a case in which
a protocol has nothing to ask ("no-target"): it must be so for every method alike, and it is counted (`judged`).

Records are long tables with the columns method, dataset, case, patient, target, protocol, step, status, and
one column for each metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, permutations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from benchmarks import metrics
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.seeds import derive_seed, generator
from benchmarks.results.records import FAILED, NO_TARGET

Values = NDArray[np.float64]
Scheme = Literal["mean-then-rank", "rank-then-mean", "test-based"]

KEYS = ["method", "dataset", "case", "target", "protocol", "step"]
UNIT = ["dataset", "case", "target"]
SETTING = ["dataset", "target", "protocol", "step"]

EXACT_CLUSTERS = 13
"""Up to so many clusters a signed-rank test goes through all signs."""

OTHER_DIRECTIONS = {
    "auc": True,
    "noc": False,
    "failed": False,
    "failures": False,
    "seconds": False,
    "peak_memory": False,
}
"""Whether more is better, for columns of records that are no metric of a mask; by the beginning of the name."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; the ends are NaN where a single cluster allows none."""

    mean: float
    low: float
    high: float
    level: float
    values: int
    clusters: int


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


# -- one sample --


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, seed: object, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean over all values and its percentile interval from resampling whole clusters.

    A cluster weighs as many values as it has, in the mean and in every resample alike.

    Raises:
        ValueError: no value, a value that is not finite, or lengths that differ.
    """
    sums, counts = _cluster_sums(values, clusters)
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


# -- two paired samples --


def wilcoxon(differences: ArrayLike, clusters: ArrayLike, alternative: str = "two-sided") -> PairedTest:
    """Wilcoxon signed-rank test on the mean difference of each cluster; p = 1 if all are zero.

    Zeros are dropped. Up to `EXACT_CLUSTERS` clusters all signs of the ranks are gone through, so the p-value is
    exact with ties too; SciPy does the same there, in Python and slowly.
    """
    means = cluster_means(differences, clusters)
    moved = means[means != 0]
    if moved.size == 0:
        return PairedTest(0.0, 1.0, len(means))
    if moved.size <= EXACT_CLUSTERS:
        return PairedTest(*_exact_signed_rank(moved, alternative), len(means))
    result = stats.wilcoxon(means, alternative=alternative)
    return PairedTest(float(result.statistic), float(result.pvalue), len(means))


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


def sign_flip(differences: ArrayLike, clusters: ArrayLike, seed: object, n: int = 9999) -> PairedTest:
    """Permutation test of the mean difference: the signs of whole clusters are flipped.

    All flips are gone through when there are no more than `n` of them, so the p-value is exact; otherwise `n`
    random ones and the identity are.
    """
    sums, counts = _cluster_sums(differences, clusters)
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
    """Equivalence of two methods within ± `margin`: two one-sided t tests on the means of the clusters.

    The interval is the matching one of level 1 − 2 alpha: it lies within ± margin just when the test says so.

    Raises:
        UserError: a margin that is not positive; it must be stated before looking at the data.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"equivalence needs a positive margin, not {margin}")
    means = cluster_means(differences, clusters)
    if len(means) < 2:
        return Equivalence(1.0, margin, math.nan, math.nan, False)
    mean, error, freedom = (
        float(means.mean()),
        float(means.std(ddof=1) / math.sqrt(len(means))),
        len(means) - 1,
    )
    if error == 0:
        p_value = 0.0 if abs(mean) < margin else 1.0
    else:
        p_value = float(stats.t.sf((margin - abs(mean)) / error, freedom))
    reach = float(stats.t.ppf(1 - alpha, freedom)) * error
    return Equivalence(p_value, margin, mean - reach, mean + reach, p_value < alpha)


def cohen_d(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Paired effect size d_z: mean over standard deviation of the clusters' means; 0 if all are zero."""
    means = cluster_means(differences, clusters)
    if not means.any():
        return 0.0
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return float(means.mean()) / spread if spread > 0 else math.copysign(math.inf, float(means.mean()))


def rank_biserial(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation: (W⁺ − W⁻) / (W⁺ + W⁻), −1 to 1; 0 if all are zero."""
    means = cluster_means(differences, clusters)
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


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> Values:
    """The mean of each cluster, in the order of the sorted cluster names."""
    sums, counts = _cluster_sums(values, clusters)
    return sums / counts


def _cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[Values, Values]:
    numbers = np.asarray(values, dtype=np.float64)
    names = np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape or numbers.size == 0:
        raise ValueError(f"values {numbers.shape} and clusters {names.shape}: two lists of equal length are needed")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(numbers))} of {numbers.size} values are not finite")
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, numbers).astype(np.float64), np.bincount(index).astype(np.float64)


# -- records --


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; the metrics of which this holds lie between 0 and 1.

    Raises:
        UserError: a column whose direction is not known, for a guess could turn a ranking upside down.
    """
    if metrics.is_metric(metric):
        return metrics.higher_is_better(metric)
    for beginning, direction in OTHER_DIRECTIONS.items():
        if metric.startswith(beginning):
            return direction
    known = [*metrics.metric_names(), *OTHER_DIRECTIONS]
    raise UserError(f"whether more or less of '{metric}' is better is not known; {nearest_name(metric, known)}")


def expected_rows(
    protocols: Mapping[str, Mapping[str, int]],
    cases: Mapping[str, Sequence[str]],
    targets: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """The rows that a finished run must have: methods × cases × targets × steps.

    Args:
        protocols: method → protocol name → number of steps, only those that the method can follow.
        cases: dataset → case ids.
        targets: dataset → target names.
    """
    rows = [
        (method, dataset, case, target, protocol, step)
        for method, steps in protocols.items()
        for dataset in cases
        for case in cases[dataset]
        for target in targets[dataset]
        for protocol, last in steps.items()
        for step in range(1, last + 1)
    ]
    return pd.DataFrame(rows, columns=KEYS)


def assert_complete(records: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """Check that the records hold every expected row once and no other, and give back the failed ones.

    Args:
        expected: columns `KEYS`, as made by `expected_rows`.

    Raises:
        UserError: rows that are missing, come twice or were not expected; the first ones are named.
    """
    have = pd.MultiIndex.from_frame(records[KEYS]) if len(records) else pd.MultiIndex.from_frame(expected.iloc[:0])
    due = pd.MultiIndex.from_frame(expected[KEYS])
    for fault, rows in (
        ("are missing", due[~due.isin(have)]),
        ("come twice", have[have.duplicated()].unique()),
        ("were not expected", have[~have.isin(due)].unique()),
    ):
        if len(rows):
            named = "; ".join(" / ".join(map(str, row)) for row in rows[:3]) + (" …" if len(rows) > 3 else "")
            raise UserError(f"records: {len(rows)} rows {fault} ({' / '.join(KEYS)}): {named}")
    return records[records["status"] == FAILED] if len(records) else records


def judged(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of cases in which there was something to ask: all but those with status "no-target".

    Raises:
        UserError: a case that counts for one method and not for another, so that their means are not comparable.
    """
    if records.empty or not (records["status"] == NO_TARGET).any():
        return records
    absent = records["status"] == NO_TARGET
    shares = absent.groupby([records[key] for key in (*UNIT, "protocol")]).transform("mean")
    torn = records[(shares > 0) & (shares < 1)]
    if len(torn):
        row = torn.iloc[0]
        told = " / ".join(str(row[key]) for key in (*UNIT, "protocol"))
        counted = ", ".join(sorted(set(torn[(torn["status"] != NO_TARGET)]["method"].astype(str)))[:3])
        raise UserError(f"records: {told} has no target for some methods but counts for {counted}; run the suite again")
    return records[~absent]


def with_failures_as_worst(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The records with every failed row at the worst value of the metric; those of `judged` only.

    The worst is that of the metric (0 for Dice). For a distance or a time it is the largest finite value in the same
    dataset, those that failed rows hold (the image diagonal) included.

    Raises:
        UserError: no such metric; a row that did not fail has no finite value; or every row of a dataset
            failed and none tells a finite worst value.
    """
    if metric not in records.columns:
        raise UserError(f"the records have no metric '{metric}'")
    filled = judged(records).copy()
    filled[metric] = filled[metric].astype(np.float64)
    failed = filled["status"] == FAILED
    _refuse_gaps(filled[~failed], metric, "did not fail and has no finite value")
    larger_wins = higher_is_better(metric)
    worst = metrics.metric_of(metric).worst if metrics.is_metric(metric) else 0.0 if larger_wins else None
    if isinstance(worst, float):
        filled.loc[failed, metric] = worst
        return filled
    finite = filled[metric].where(np.isfinite(filled[metric]))
    filled.loc[failed, metric] = finite.groupby(filled["dataset"]).transform("max")[failed]
    _refuse_gaps(filled, metric, "failed, and its dataset has no finite value to count as the worst")
    return filled


def _refuse_gaps(records: pd.DataFrame, metric: str, what: str) -> None:
    gaps = records[~np.isfinite(records[metric])]
    if len(gaps):
        row = " / ".join(str(gaps.iloc[0][key]) for key in KEYS)
        raise UserError(f"records: {metric} of {row} {what} ({len(gaps)} such rows)")


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
        told = (interval.values, interval.clusters, failures, interval.mean, interval.low, interval.high)
        rows.append((*key, *told))
    return pd.DataFrame(rows, columns=[*groups, "n", "patients", "failed", "mean", "low", "high"])


def subgroups(
    records: pd.DataFrame, metric: str, column: str, edges: Sequence[float] | None = None, seed: object = 0
) -> pd.DataFrame:
    """The summary split by lesion size, number of lesions, spacing, or any column of the records.

    Args:
        edges: inner edges that cut a numeric column into classes, lower edge inclusive; None takes the values
            as they are. A value that is missing or not finite makes the class "unknown", it is never dropped.
    """
    if column not in records.columns:
        raise UserError(f"the records have no column '{column}' to make subgroups of")
    values = records[column]
    if edges is None:
        classes = values.astype(object).where(values.notna(), "unknown")
    else:
        classes = _classes(values.astype(np.float64), sorted(edges))
    return summary(records.assign(**{column: classes}), metric, seed, by=[column])


def _classes(values: pd.Series, edges: Sequence[float]) -> pd.Series:
    labels = [f"< {edges[0]:g}"]
    labels += [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    labels += [f">= {edges[-1]:g}", "unknown"]
    place = np.searchsorted(edges, values.to_numpy(), side="right")
    place[~np.isfinite(values.to_numpy())] = len(labels) - 1
    return pd.Series(pd.Categorical([labels[i] for i in place], labels, ordered=True), index=values.index)


def case_table(records: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, pd.Series]:
    """Cases × methods for one protocol and step, and the patient of each case; failures at the worst value.

    Raises:
        UserError: more than one protocol or step, or a case that some method lacks.
    """
    for column in ("protocol", "step"):
        if records[column].nunique() != 1:
            raise UserError(f"a comparison needs one {column}, these records have {records[column].nunique()}")
    filled = with_failures_as_worst(records, metric)
    repeated = filled[filled.duplicated(["method", *UNIT])]
    if len(repeated):
        raise UserError(f"records: {' / '.join(str(repeated.iloc[0][key]) for key in KEYS)} comes twice")
    table = filled.pivot(index=UNIT, columns="method", values=metric)
    lacking = np.argwhere(table.isna().to_numpy())
    if len(lacking):
        unit, method = table.index[lacking[0][0]], table.columns[lacking[0][1]]
        raise UserError(f"records: {method} has no row for {' / '.join(map(str, unit))}")
    patients = filled.drop_duplicates(UNIT).set_index(UNIT)["patient"].astype(str).reindex(table.index)
    return table, table.index.get_level_values("dataset").astype(str) + "/" + patients


def comparisons(
    records: pd.DataFrame,
    metric: str,
    seed: object = 0,
    margin: float | None = None,
    reference: str | None = None,
    n: int = 9999,
) -> pd.DataFrame:
    """Paired comparisons of methods in one protocol and step, Holm-corrected over all pairs of the table.

    All pairs share the resamples and the flips: each interval and p-value is what it would be alone, and Holm's
    correction holds whatever the dependence between the tests.

    Args:
        margin: the smallest difference that matters; gives the equivalence test if stated.
        reference: compare every method with this one only; None compares all pairs.

    Returns:
        One row per pair (a, b): mean of a − b with interval, Wilcoxon and sign-flip p (raw and
        Holm-adjusted), Cohen's d, rank-biserial r, and the equivalence test. `better` names the better
        method, whatever the metric's direction.
    """
    table, patients = case_table(records, metric)
    names = [str(name) for name in table.columns]
    if reference is not None and reference not in names:
        raise UserError(f"no method '{reference}' in these records")
    pairs = [(a, reference) for a in names if a != reference] if reference else list(combinations(names, 2))
    rows = [_comparison(table, patients, a, b, higher_is_better(metric), seed, margin, n) for a, b in pairs]
    told = pd.DataFrame(rows)
    for test in ("wilcoxon", "sign_flip") if rows else ():
        told[f"p_{test}_holm"] = holm(told[f"p_{test}"])
    return told


def _comparison(
    table: pd.DataFrame,
    patients: pd.Series,
    a: str,
    b: str,
    larger_wins: bool,
    seed: object,
    margin: float | None,
    n: int,
) -> dict[str, Any]:
    difference, clusters = (table[a] - table[b]).to_numpy(), patients.to_numpy()
    interval = bootstrap_mean(difference, clusters, seed)
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
        "p_sign_flip": sign_flip(difference, clusters, seed, n).p_value,
        "cohen_d": cohen_d(difference, clusters),
        "rank_biserial": rank_biserial(difference, clusters),
    }
    if margin is not None:
        same = tost(difference, margin, clusters)
        row |= {"margin": margin, "p_equivalence": same.p_value, "equivalent": same.equivalent}
    return row


# -- rankings --


def ranking(table: pd.DataFrame, clusters: ArrayLike, larger_wins: bool, scheme: Scheme) -> pd.Series:
    """Rank of each method, 1 the best; equal methods share the better rank.

    Args:
        table: cases × methods.
        clusters: the patient of each case.
        scheme: "mean-then-rank" ranks the means; "rank-then-mean" ranks the methods in every case, then
            their mean ranks; "test-based" ranks the numbers of methods that each one beats significantly
            (one-sided Wilcoxon on patients, Holm over all ordered pairs, level 0.05).
    """
    directed = table if larger_wins else -table
    if scheme == "test-based":
        scores = _wins(directed, np.asarray(clusters))
    else:
        scores = _case_scores(directed, scheme).mean(axis=0)
    return pd.Series(_places(scores), index=table.columns)


def _case_scores(table: pd.DataFrame, scheme: Scheme) -> Values:
    """What a scheme averages over cases, cases × methods, more being better."""
    values = table.to_numpy(np.float64)
    return values if scheme == "mean-then-rank" else -stats.rankdata(-values.round(12), axis=1)


def _places(scores: Values) -> NDArray[np.int64]:
    """Ranks along the last axis, 1 for the largest score; equal ones share the better rank."""
    return stats.rankdata(-scores.round(12), method="min", axis=-1).astype(np.int64)


def _wins(table: pd.DataFrame, clusters: NDArray[Any]) -> Values:
    pairs = list(permutations(range(table.shape[1]), 2))
    values = table.to_numpy(np.float64)
    p_values = [wilcoxon(values[:, a] - values[:, b], clusters, "greater").p_value for a, b in pairs]
    won = np.zeros(table.shape[1])
    for (a, _), p in zip(pairs, holm(p_values), strict=True):
        won[a] += p < 0.05
    return won


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


def rankings(records: pd.DataFrame, metric: str, schemes: Iterable[Scheme] = get_args(Scheme)) -> pd.DataFrame:
    """Method × scheme → rank, for one protocol and step; an order that hangs on the scheme is not firm."""
    table, patients = case_table(records, metric)
    return pd.DataFrame({name: ranking(table, patients, higher_is_better(metric), name) for name in schemes})


def robustness_curve(
    records: pd.DataFrame, metric: str, levels: Mapping[str, float], loss: float = 0.05, seed: object = 0
) -> pd.DataFrame:
    """A metric against the size of the operator's error, and how much error each method tolerates.

    Args:
        levels: protocol name → size of the error, such as mm; the protocols of one ladder (see
            `benchmarks.prompting.protocol.noise_ladder`).
        loss: how much worse than at the smallest error the mean may become.

    Returns:
        The rows of `summary` at the last step of each protocol, with `level` and `tolerated`: the level at
        which the loss is first exceeded, by linear interpolation; infinite if it never is.
    """
    rows = records[records["protocol"].isin(list(levels))]
    absent = [name for name in levels if name not in set(rows["protocol"])]
    if absent:
        raise UserError(f"records: no rows of protocol '{absent[0]}'; {nearest_name(absent[0], records['protocol'])}")
    last = rows[rows["step"] == rows.groupby("protocol")["step"].transform("max")]
    told = summary(last, metric, seed)
    told = told.assign(level=told["protocol"].map(dict(levels)).astype(np.float64))
    told = told.sort_values(["method", "dataset", "target", "level"], ignore_index=True)
    sign = 1.0 if higher_is_better(metric) else -1.0
    for _, curve in told.groupby(["method", "dataset", "target"]):
        worse = sign * (curve["mean"].iloc[0] - curve["mean"].to_numpy())
        told.loc[curve.index, "tolerated"] = _first_crossing(curve["level"].to_numpy(), worse, loss)
    return told


def _first_crossing(levels: Values, worse: Values, loss: float) -> float:
    beyond = np.flatnonzero(worse > loss)
    if beyond.size == 0:
        return math.inf
    i = int(beyond[0])
    share = (loss - worse[i - 1]) / (worse[i] - worse[i - 1])
    return float(levels[i - 1] + share * (levels[i] - levels[i - 1]))
