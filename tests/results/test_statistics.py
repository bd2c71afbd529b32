"""Statistics against scipy, statsmodels and closed forms, and calibrated on simulated null data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from benchmarks.common.errors import UserError
from benchmarks.common.seeds import generator
from benchmarks.results import statistics as st
from benchmarks.results.statistics import rankings
from tests.results.coverage import DICE, coverage, percentile_bootstrap
from tests.results.patients import error_of_mean

RNG = np.random.default_rng(2026)


def alone(values: np.ndarray) -> np.ndarray:
    """Every value its own patient."""
    return np.arange(len(values))


def records(
    methods: dict[str, np.ndarray],
    patients: list[str] | None = None,
    metric: str = "dice",
    dataset: str = "kits21",
) -> pd.DataFrame:
    rows = [
        {
            "method": method,
            "dataset": dataset,
            "case": f"case_{i:03}",
            "patient": patients[i] if patients else f"case_{i:03}",
            "target": "tumor",
            "protocol": "centre-click",
            "step": 1,
            "status": "ok",
            metric: value,
        }
        for method, values in methods.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


# -- one sample --


def test_one_value_a_patient_gives_the_t_interval_of_scipy() -> None:
    values = RNG.normal(0, 1, 17)
    ours = st.mean_interval(values, alone(values))
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), theirs.low, theirs.high))
    assert (ours.values, ours.clusters) == (17, 17)


def test_equal_patients_count_once_each() -> None:
    """Closed form: with as many lesions in each, it is the t interval of the patients' means."""
    values = np.repeat(RNG.normal(0, 1, 12), 4) + RNG.normal(0, 0.1, 48)
    ours = st.mean_interval(values, np.repeat(np.arange(12), 4))
    theirs = stats.ttest_1samp(values.reshape(12, 4).mean(axis=1), 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    naive = st.mean_interval(values, alone(values))
    assert (ours.high - ours.low) > 1.5 * (naive.high - naive.low)


def test_unequal_patients_by_the_matrices_of_the_definition() -> None:
    """The jackknife patient by patient, and Satterthwaite's degrees of freedom from the covariance of the residuals."""
    values = np.concatenate([np.full(9, 0.9), 0.4 * RNG.random(11)])
    owner = np.array([0] * 9 + [1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8])
    error, freedom = error_of_mean(values, owner)
    reach = stats.t.ppf(0.975, freedom) * error
    ours = st.mean_interval(values, owner)
    assert (ours.low, ours.high) == pytest.approx((values.mean() - reach, values.mean() + reach))
    assert freedom < 0.7 * owner.max()  # so the test can tell it from one less than the patients


def test_shares_and_lengths_keep_their_range_and_reach_to_the_long_tail() -> None:
    """The delta method: symmetric on the log-odds of a share, on the logarithm of a length."""
    shares = np.array([0.97, 0.9, 0.99, 0.6])
    plain = st.mean_interval(shares, alone(shares))
    ours = st.mean_interval(shares, alone(shares), "share")
    assert plain.high > 1 > ours.high
    assert plain.mean - ours.low > ours.high - plain.mean
    odds = np.log(np.array([ours.low, ours.high]) / (1 - np.array([ours.low, ours.high])))
    middle = math.log(shares.mean() / (1 - shares.mean()))
    half = (plain.high - plain.low) / 2 / (shares.mean() * (1 - shares.mean()))
    assert odds.tolist() == pytest.approx([middle - half, middle + half])
    lengths = np.array([1.0, 2.0, 60.0])
    wide = st.mean_interval(lengths, alone(lengths), "positive")
    assert st.mean_interval(lengths, alone(lengths)).low < 0 < wide.low
    assert wide.low * wide.high == pytest.approx(21.0**2)
    assert [st.scale_of(metric) for metric in ("dice", "nsd@3mm", "hd95_mm", "seconds_open")] == [
        "share",
        "share",
        "positive",
        "positive",
    ]


@pytest.mark.parametrize("scale", ["share", "positive", "difference"])
def test_patients_who_all_agree_leave_no_width_and_none_is_infinite(scale: st.Scale) -> None:
    for value in (0.0, 0.3, 1.0):
        same = st.mean_interval([value] * 4, range(4), scale)
        assert (same.low, same.high) == pytest.approx((value, value))
    far = st.mean_interval([0.0, 0.0, 1.0], range(3), scale)
    assert np.isfinite([far.low, far.high]).all()
    assert far.low < 1 / 3 < far.high


def test_one_patient_allows_no_interval_and_gaps_are_refused() -> None:
    one = st.mean_interval([0.5, 0.7], ["a", "a"])
    assert one.mean == pytest.approx(0.6)
    assert math.isnan(one.low)
    for values in ([0.5, math.nan], [0.5, math.inf]):
        with pytest.raises(ValueError, match="1 of 2 values are not finite"):
            st.mean_interval(values, ["a", "b"])
    with pytest.raises(ValueError, match="equal length"):
        st.mean_interval([], [])


def test_the_interval_does_not_hang_on_the_order() -> None:
    values, owner = RNG.random(30), RNG.integers(0, 9, 30)
    order = RNG.permutation(30)
    ours, again = st.mean_interval(values, owner, "share"), st.mean_interval(values[order], owner[order], "share")
    assert (again.low, again.high) == pytest.approx((ours.low, ours.high))


@pytest.mark.parametrize(("patients", "least"), [(5, 0.92), (20, 0.93)])
def test_the_interval_covers_where_the_percentile_bootstrap_does_not(patients: int, least: float) -> None:
    """Clustered, left-skewed shares with a true mean in closed form, of 5 and of 20 patients."""
    chance = np.random.default_rng(0)

    def ours(values: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
        interval = st.mean_interval(values, owner, "share")
        return interval.low, interval.high

    assert least <= coverage(DICE, patients, 1500, ours) <= 0.97
    usual = coverage(DICE, patients, 1500, lambda v, o: percentile_bootstrap(v, o, chance, draws=200))
    assert usual < least - 0.01


# -- paired tests --


def test_wilcoxon_is_scipys_on_the_patients() -> None:
    differences = RNG.normal(0.2, 1, 45)
    patients = np.repeat(np.arange(15), 3)
    ours = st.wilcoxon(differences, patients)
    theirs = stats.wilcoxon(differences.reshape(15, 3).mean(axis=1))
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.clusters == 15
    assert st.wilcoxon(np.zeros(5), np.arange(5)).p_value == 1.0


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_wilcoxon_is_exact_for_few_patients(alternative: str) -> None:
    """With ties against SciPy's permutation of the signs, without them against its tabulated distribution."""
    for size in (1, 4, 9):
        for differences in (RNG.normal(0.3, 1, size), RNG.choice([-0.2, 0.1, 0.1, 0.3], size)):
            ours = st.wilcoxon(differences, alone(differences), alternative)
            method = stats.PermutationMethod() if len(set(np.abs(differences))) < size else "exact"
            theirs = stats.wilcoxon(differences, alternative=alternative, method=method)
            assert ours.p_value == pytest.approx(theirs.pvalue)
            assert ours.statistic == theirs.statistic
    with_zeros = np.array([0.0, 0.0, 0.4, 0.1, -0.2, 0.5])
    dropped = stats.wilcoxon(with_zeros[2:], alternative=alternative, method="exact")
    told = st.wilcoxon(with_zeros, alone(with_zeros), alternative)
    assert told.p_value == pytest.approx(dropped.pvalue)
    assert told.clusters == 6


def test_ties_are_those_of_the_true_numbers() -> None:
    """1 - 2/3 and 2/3 - 1/3 differ in the last bit; thirds times three are whole numbers, whose ties nobody doubts."""
    for size in range(6, 12):
        thirds = RNG.integers(0, 4, (2, size))
        differences, whole = thirds[0] / 3 - thirds[1] / 3, (thirds[0] - thirds[1]).astype(float)
        theirs = stats.wilcoxon(whole[whole != 0], method=stats.PermutationMethod())
        assert st.wilcoxon(differences, alone(differences)).p_value == pytest.approx(theirs.pvalue)
        assert st.rank_biserial(differences, alone(differences)) == st.rank_biserial(whole, alone(whole))
    assert st.cohen_d([0.3 - 0.2, 0.4 - 0.3, 0.9 - 0.8], range(3)) == math.inf


def test_sign_flip_is_exact_for_few_patients() -> None:
    differences = RNG.normal(0.5, 1, 9)
    theirs = stats.permutation_test(
        (differences, np.zeros(9)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    assert st.sign_flip(differences, alone(differences), 0).p_value == pytest.approx(theirs.pvalue)
    assert st.sign_flip([1.0, 1.0, 1.0, 1.0], range(4), 0).p_value == 2 / 16


def test_sign_flip_with_many_patients_is_near_the_exact_value() -> None:
    differences = RNG.normal(0.35, 1, 13)
    exact = st.sign_flip(differences, alone(differences), 0, n=9999).p_value
    drawn = st.sign_flip(differences, alone(differences), 0, n=8000).p_value
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 8000))
    assert st.sign_flip(np.ones(50), np.arange(50), 0, n=999).p_value == 1 / 1000


def test_sign_flip_flips_whole_patients() -> None:
    """Ten lesions of each of three patients: at best 2 of the 8 flips are as extreme."""
    assert st.sign_flip(np.ones(30), np.repeat(np.arange(3), 10), 0).p_value == 2 / 8


def test_tost_is_that_of_statsmodels() -> None:
    for centre in (0.0, 0.03, 0.2):
        a = RNG.normal(0.7, 0.05, 40)
        b = a + RNG.normal(centre, 0.05, 40)
        p_value, _, _ = ttost_paired(a, b, -0.05, 0.05)
        ours = st.tost(a - b, 0.05, np.arange(40))
        assert ours.p_value == pytest.approx(p_value)
        np.testing.assert_allclose((ours.low, ours.high), DescrStatsW(a - b).tconfint_mean(alpha=0.1))
        assert ours.equivalent == (p_value < 0.05) == (ours.low > -0.05 and ours.high < 0.05)
    assert st.tost(np.zeros(5), 0.1, np.arange(5)).equivalent
    assert not st.tost(np.full(5, 0.1), 0.1, np.arange(5)).equivalent
    assert not st.tost([0.0], 0.1, [0]).equivalent
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="positive margin"):
            st.tost([0.1, 0.2], margin, [0, 1])


def test_equivalence_is_that_of_the_difference_that_is_shown() -> None:
    """One patient with twenty scans at +0.1, thirty without a difference: 0.04 over scans, 0.003 over patients."""
    patients = np.concatenate([np.zeros(20), np.arange(1, 31)])
    differences = np.concatenate([np.full(20, 0.1), np.tile([0.001, -0.001], 15)])
    shown = st.mean_interval(differences, patients, level=0.9)
    found = st.tost(differences, 0.02, patients)
    assert shown.mean == pytest.approx(0.04)
    assert not found.equivalent
    assert (found.low, found.high) == pytest.approx((shown.low, shown.high))


def test_holm_is_that_of_statsmodels() -> None:
    for size in (1, 2, 7, 40):
        p = RNG.random(size) ** 3
        np.testing.assert_allclose(st.holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(st.holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])


def test_effect_sizes_by_their_definitions() -> None:
    differences = RNG.normal(0.4, 1, 25)
    assert st.cohen_d(differences, alone(differences)) == pytest.approx(
        stats.ttest_1samp(differences, 0).statistic / math.sqrt(25)
    )
    ranks = stats.rankdata(np.abs(differences))
    smaller = stats.wilcoxon(differences, method="approx").statistic
    sign = 1 if (ranks * np.sign(differences)).sum() > 0 else -1
    assert st.rank_biserial(differences, alone(differences)) == pytest.approx(sign * (1 - 2 * smaller / ranks.sum()))
    assert st.rank_biserial([1, 2, 3], [0, 1, 2]) == 1
    assert st.rank_biserial([0, 0], [0, 1]) == 0
    assert st.cohen_d([0, 0], [0, 1]) == 0
    assert st.cohen_d([-1, -1], [0, 1]) == -math.inf


# -- calibration --


def null_differences(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Skewed per-method errors, strongly shared within a patient, no difference between the methods."""
    lesions = chance.integers(1, 5, patients)
    owner = np.repeat(np.arange(patients), lesions)
    effect = chance.exponential(1, (2, patients))
    noise = chance.normal(0, 0.3, (2, owner.size))
    one, other = effect[:, owner] + noise
    return one - other, owner


def within_binomial(count: int, trials: int, rate: float) -> bool:
    """Whether a count is inside the central 99.9 % of the binomial distribution."""
    low, high = stats.binom.interval(0.999, trials, rate)
    return bool(low <= count <= high)


def test_false_positives_come_as_often_as_stated() -> None:
    trials = 600
    hits = {"wilcoxon": 0, "sign_flip": 0, "naive": 0}
    for trial in range(trials):
        differences, owner = null_differences(np.random.default_rng(trial), 25)
        hits["wilcoxon"] += st.wilcoxon(differences, owner).p_value < 0.05
        hits["sign_flip"] += st.sign_flip(differences, owner, trial, n=499).p_value <= 0.05
        hits["naive"] += st.wilcoxon(differences, alone(differences)).p_value < 0.05
    assert within_binomial(hits["wilcoxon"], trials, 0.05)
    assert within_binomial(hits["sign_flip"], trials, 0.05)
    assert not within_binomial(hits["naive"], trials, 0.05)  # what ignoring the patients would cost


def test_tost_and_holm_keep_their_error_rates() -> None:
    trials = 600
    wrongly_equivalent = any_of_family = 0
    for trial in range(trials):
        chance = np.random.default_rng(trial)
        at_the_margin = chance.normal(0.05, 0.05, 30)
        wrongly_equivalent += st.tost(at_the_margin, 0.05, np.arange(30)).equivalent
        family = [st.sign_flip(chance.normal(0, 1, 30), np.arange(30), (trial, i), n=399).p_value for i in range(4)]
        any_of_family += bool((st.holm(family) <= 0.05).any())
    assert within_binomial(wrongly_equivalent, trials, 0.05)
    assert within_binomial(any_of_family, trials, 0.05)


def test_ranking_by_tests_names_no_winner_where_there_is_none() -> None:
    trials = 200
    winners = 0
    for trial in range(trials):
        scores = np.random.default_rng(trial).exponential(1, (14, 4))  # skewed, and exchangeable
        table = pd.DataFrame(scores, columns=list("abcd"))
        winners += st.ranking(table, np.arange(14), True, "test-based").nunique() > 1
    assert stats.binom.cdf(winners, trials, 0.05) < 0.9995


def test_equal_methods_share_the_first_rank_alike() -> None:
    """Over many null data sets each of three methods is first in a third of the resamples."""
    shares = []
    for trial in range(80):
        table = pd.DataFrame(np.random.default_rng(trial).normal(size=(20, 3)), columns=list("abc"))
        shares.append(st.ranking_stability(table, np.arange(20), True, seed=trial, n=200).frequency[1].to_numpy())
    spread = np.std(shares, axis=0) / math.sqrt(len(shares))
    assert (np.abs(np.mean(shares, axis=0) - 1 / 3) < 4 * spread).all()


# -- completeness and failures --


def expected() -> pd.DataFrame:
    return st.expected_rows(
        {"tags": {"centre-click": 1, "iterative-3": 3}, "nnunet": {"automatic": 1}},
        {"kits21": ["a", "b"], "lits17": ["a"]},
        {"kits21": ["kidney", "tumor"], "lits17": ["tumor"]},
    )


def finished() -> pd.DataFrame:
    return expected().assign(status="ok", patient=expected()["case"], dice=0.5)


def test_expected_rows_are_the_product() -> None:
    assert len(expected()) == (1 + 3 + 1) * (2 * 2 + 1)
    assert not expected().duplicated().any()


def test_complete_records_pass_in_any_order_and_failed_rows_are_listed() -> None:
    rows = finished().sample(frac=1, random_state=0)
    assert st.assert_complete(rows, expected()).empty
    rows.loc[rows["method"] == "nnunet", "status"] = "failed"
    assert len(st.assert_complete(rows, expected())) == 5


def test_a_missing_repeated_or_foreign_row_is_named() -> None:
    rows = finished()
    with pytest.raises(UserError, match=r"1 rows are missing.*tags / kits21 / a / kidney / centre-click / 1"):
        st.assert_complete(rows.iloc[1:], expected())
    with pytest.raises(UserError, match=r"25 rows are missing.*…"):
        st.assert_complete(rows.iloc[:0], expected())
    with pytest.raises(UserError, match="25 rows are missing"):
        st.assert_complete(pd.DataFrame(), expected())
    with pytest.raises(UserError, match="1 rows come twice"):
        st.assert_complete(pd.concat([rows, rows.iloc[:1]]), expected())
    with pytest.raises(UserError, match=r"1 rows were not expected.*segvol"):
        st.assert_complete(pd.concat([rows, rows.iloc[:1].assign(method="segvol")]), expected())


def test_a_failed_row_counts_as_the_worst() -> None:
    rows = records({"a": np.array([0.8, 0.6]), "b": np.array([0.9, 0.9])})
    rows["hd95_mm"] = [3.0, 9.0, 2.0, 4.0]
    rows.loc[3, ["status", "dice", "hd95_mm"]] = ["failed", math.nan, math.nan]
    assert st.with_failures_as_worst(rows, "dice")["dice"].tolist() == [0.8, 0.6, 0.9, 0.0]
    assert st.with_failures_as_worst(rows, "hd95_mm")["hd95_mm"].tolist() == [3, 9, 2, 9]
    rows.loc[3, "hd95_mm"] = 500.0  # the image diagonal
    assert st.with_failures_as_worst(rows, "hd95_mm")["hd95_mm"].tolist() == [3, 9, 2, 500]
    rows.loc[3, ["dice"]] = 0.99  # whatever a failed row holds
    told = st.summary(rows, "dice").set_index("method")
    assert told.loc["b", ["n", "failed", "mean"]].tolist() == [2, 1, 0.45]


def test_a_gap_that_is_not_a_failure_is_an_error() -> None:
    rows = records({"a": np.array([0.8, math.nan])})
    with pytest.raises(UserError, match=r"dice of a / kits21 / case_001 .* no finite value"):
        st.summary(rows, "dice")
    rows["status"] = "failed"
    rows["hd95_mm"] = math.nan
    assert st.summary(rows, "dice")["mean"].tolist() == [0.0]
    with pytest.raises(UserError, match="no finite value to count as the worst"):
        st.summary(rows, "hd95_mm")
    with pytest.raises(UserError, match="no metric 'nsd'"):
        st.summary(rows, "nsd")


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("dice", True),
        ("nsd@1mm", True),
        ("dice@3", True),
        ("lesion_f1", True),
        ("lesion_sensitivity", True),
        ("hd95_mm", False),
        ("msd_mm", False),
        ("rve", False),
        ("seconds_segment", False),
        ("noc@0.8", False),
    ],
)
def test_the_direction_of_a_metric(metric: str, larger: bool) -> None:
    assert st.higher_is_better(metric) is larger


def test_an_unknown_direction_is_not_guessed() -> None:
    with pytest.raises(UserError, match="'lesions_found' is better is not known"):
        st.higher_is_better("lesions_found")


def test_rows_that_were_not_asked_are_left_out_for_all_methods_or_refused() -> None:
    frame = records({"a": [0.9, 0.1, 0.5], "b": [0.6, 0.2, 0.4]})
    assert st.with_target(frame) is frame
    last = frame["case"] == frame["case"].iloc[-1]
    frame.loc[last, "status"] = "no-target"
    frame.loc[last, "dice"] = math.nan
    left = st.with_failures_as_worst(frame, "dice")
    assert len(left) == 4
    assert st.summary(frame, "dice")["n"].tolist() == [2, 2]
    frame.loc[last & (frame["method"] == "b"), ["status", "dice"]] = ["ok", 0.4]
    with pytest.raises(UserError, match="has no target for some methods but counts for b"):
        st.with_target(frame)


# -- comparisons and rankings --


def test_a_clear_winner_of_many_methods_is_found() -> None:
    """34 methods make 561 pairs; with 9999 flips none could have less than 561/10000 after the correction."""
    noise = RNG.normal(0, 0.02, (33, 30))
    table = {"best": np.full(30, 0.9), **{f"m{number:02}": 0.3 + values for number, values in enumerate(noise)}}
    pairs = st.comparisons(records(table), "dice")
    assert (pairs[pairs["better"] == "best"]["p_sign_flip_holm"] < 0.05).sum() == 33
    one = st.comparisons(records({name: table[name] for name in ("best", "m00")}), "dice", tests=1000)
    assert one["p_sign_flip"].iloc[0] == 1 / 40_001


def test_comparisons_are_paired_corrected_and_told_by_direction() -> None:
    base = RNG.beta(4, 2, 40)
    table = {"a": base, "b": base - 0.1 + RNG.normal(0, 0.01, 40), "c": base + RNG.normal(0, 0.002, 40)}
    told = st.comparisons(records(table), "dice", margin=0.01).set_index(["a", "b"])
    assert told.loc[("a", "b"), "better"] == "a"
    assert told.loc[("a", "b"), "difference"] == pytest.approx(0.1, abs=0.01)
    assert told.loc[("a", "b"), "p_wilcoxon"] == pytest.approx(stats.wilcoxon(table["a"] - table["b"]).pvalue)
    np.testing.assert_allclose(told["p_wilcoxon_holm"], multipletests(told["p_wilcoxon"], method="holm")[1])
    assert told["equivalent"].tolist() == [False, True, False]
    assert st.comparisons(records(table, metric="hd95_mm"), "hd95_mm").iloc[0]["better"] == "b"
    against = st.comparisons(records(table), "dice", reference="b")
    assert against[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["c", "b"]]
    assert st.comparisons(records({"a": base}), "dice").empty
    with pytest.raises(UserError, match="no method 'z'"):
        st.comparisons(records(table), "dice", reference="z")


def test_a_comparison_refuses_what_cannot_be_paired() -> None:
    rows = records({"a": RNG.random(4), "b": RNG.random(4)})
    with pytest.raises(UserError, match="b has no row for kits21 / case_003 / tumor"):
        st.case_table(rows.iloc[:-1], "dice")
    with pytest.raises(UserError, match="needs one protocol, these records have 2"):
        st.case_table(pd.concat([rows, rows.assign(protocol="box")]), "dice")
    with pytest.raises(UserError, match="comes twice"):
        st.case_table(pd.concat([rows, rows]), "dice")


def test_patients_of_two_datasets_are_not_taken_for_one() -> None:
    rows = pd.concat([records({"a": RNG.random(3)}), records({"a": RNG.random(3)}, dataset="lits17")])
    _, patients = st.case_table(rows, "dice")
    assert patients.nunique() == 6


def test_the_schemes_can_disagree() -> None:
    """One method wins most cases by a little, the other one case by far."""
    table = pd.DataFrame({"often": [0.81, 0.81, 0.81, 0.81, 0.1], "once": [0.8, 0.8, 0.8, 0.8, 0.9]})
    patients = np.arange(5)
    assert st.ranking(table, patients, True, "mean-then-rank").to_dict() == {"often": 2, "once": 1}
    assert st.ranking(table, patients, True, "rank-then-mean").to_dict() == {"often": 1, "once": 2}
    assert st.ranking(table, patients, True, "test-based").to_dict() == {"often": 1, "once": 1}
    assert st.ranking(table, patients, False, "mean-then-rank").to_dict() == {"often": 1, "once": 2}


def test_test_based_ranking_counts_significant_wins() -> None:
    base = RNG.random(30)
    table = pd.DataFrame(
        {"best": base + 0.2, "middle": base + RNG.normal(0, 0.01, 30), "also": base, "last": base - 0.2}
    )
    ranks = st.ranking(table, np.arange(30), True, "test-based")
    assert ranks.to_dict() == {"best": 1, "middle": 2, "also": 2, "last": 4}


def test_stability_of_a_clear_order_and_of_no_order() -> None:
    base = RNG.random(30)
    clear = pd.DataFrame({"a": base + 0.5, "b": base + 0.2, "c": base})
    stable = st.ranking_stability(clear, np.arange(30), True, n=100)
    assert (stable.kendall_tau == 1).all()
    assert stable.frequency.loc["a", 1] == 1
    assert stable.low.equals(stable.high)
    same = pd.DataFrame(RNG.normal(0, 1, (30, 3)), columns=list("abc"))
    loose = st.ranking_stability(same, np.arange(30), True, n=300)
    np.testing.assert_allclose(loose.frequency.sum(axis=1), 1)
    assert loose.kendall_tau.mean() < 0.9
    assert loose.frequency.to_numpy().max() < 1


def test_the_frequency_of_the_first_rank_is_the_bootstrap_probability() -> None:
    """Two methods: P(a wins) is the chance that the resampled mean difference is positive."""
    difference = RNG.normal(0.15, 1, 50)
    table = pd.DataFrame({"a": difference, "b": np.zeros(50)})
    stable = st.ranking_stability(table, np.arange(50), True, n=1500)
    expected_share = stats.norm.cdf(difference.mean() / (difference.std() / math.sqrt(50)))
    assert stable.frequency.loc["a", 1] == pytest.approx(expected_share, abs=0.04)


def test_stability_draws_patients_not_cases() -> None:
    """One patient with many good cases: drawn or not, the whole block comes or goes."""
    table = pd.DataFrame({"a": [1.0] * 30 + [0.0] * 3, "b": [0.0] * 30 + [1.0] * 3})
    patients = np.array([0] * 30 + [1, 2, 3])
    stable = st.ranking_stability(table, patients, True, n=1500)
    assert stable.frequency.loc["b", 1] == pytest.approx((3 / 4) ** 4, abs=0.04)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations([(1, 2, 3), (1, 1, 3), (1, 1, 1)], 2)))
def test_tau_never_leaves_its_range(a: tuple, b: tuple) -> None:
    assert -1 <= rankings._kendall_tau(np.array(a), np.array(b)) <= 1


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ((1, 2, 3), (1, 2, 3), 1.0),
        ((1, 2, 3), (1, 3, 2), 1 / 3),  # one of three pairs the other way round
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        ((1, 2, 3), (1, 1, 3), 2 / math.sqrt(3 * 2)),  # τ-b: two agree, one is tied on one side
    ],
)
def test_tau_by_its_closed_form(a: tuple, b: tuple, tau: float) -> None:
    assert rankings._kendall_tau(np.array(a), np.array(b)) == pytest.approx(tau)


def test_rank_biserial_is_that_of_the_signed_rank_statistic() -> None:
    """r = 2 W⁺ / (n (n + 1) / 2) − 1, with SciPy's W⁺ (the statistic of the one-sided test)."""
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.3, 1, 20)
        upwards = stats.wilcoxon(values, alternative="greater").statistic
        assert st.rank_biserial(values, alone(values)) == pytest.approx(2 * upwards / (20 * 21 / 2) - 1)


def test_the_error_that_is_tolerated_by_interpolation() -> None:
    curves = {"firm": [0.80, 0.79, 0.78], "frail": [0.90, 0.88, 0.80], "lost": [0.70, 0.50, 0.60]}
    levels = {"box": 0.0, "box-jitter-5mm": 5.0, "box-jitter-10mm": 10.0}
    rows = pd.concat(
        records({method: np.full(4, curve[i]) for method, curve in curves.items()}).assign(protocol=protocol)
        for i, protocol in enumerate(levels)
    )
    told = st.robustness_curve(rows, "dice", levels)
    tolerated = told.drop_duplicates("method").set_index("method")["tolerated"]
    assert tolerated["firm"] == math.inf
    assert tolerated["frail"] == pytest.approx(5 + 5 * (0.05 - 0.02) / 0.08)
    assert tolerated["lost"] == pytest.approx(5 * 0.05 / 0.2)
    assert told["level"].tolist() == [0, 5, 10] * 3
    distance = rows.assign(hd95_mm=10 - 10 * rows["dice"])  # a loss of 0.5 mm here is one of 0.05 there
    for ladder in (levels, dict(reversed(levels.items()))):
        in_mm = st.robustness_curve(distance, "hd95_mm", ladder, loss=0.5)
        by_method = in_mm.drop_duplicates("method").set_index("method")["tolerated"]
        assert by_method.to_dict() == pytest.approx(tolerated.to_dict())
    with pytest.raises(UserError, match="no rows of protocol 'bax'; did you mean 'box'"):
        st.robustness_curve(rows, "dice", {"bax": 0})


def test_stability_by_tests_draws_patients_too() -> None:
    base = RNG.random(16)
    table = pd.DataFrame({"a": base + 0.3, "b": base, "c": base})
    stable = st.ranking_stability(table, np.arange(16), True, "test-based", n=10)
    assert stable.ranking.to_dict() == {"a": 1, "b": 2, "c": 2}
    assert stable.frequency.loc["a", 1] == 1


def test_fast_and_plain_resampling_rank_alike() -> None:
    """The weighted means of `ranking_stability` against ranking the drawn rows one by one."""
    patients = np.repeat(np.arange(10), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    table = pd.DataFrame(RNG.random((len(patients), 4)), columns=list("abcd"))
    for scheme in ("mean-then-rank", "rank-then-mean"):
        fast = st.ranking_stability(table, patients, True, scheme, seed=3, n=25)  # type: ignore[arg-type]
        drawn = generator("ranking", 3).multinomial(10, np.full(10, 0.1), size=25)
        plain = [
            st.ranking(*rankings._resampled(table, patients, times), True, scheme)  # type: ignore[arg-type]
            for times in drawn
        ]
        for method in table.columns:
            for rank in range(1, 5):
                assert fast.frequency.loc[method, rank] == np.mean([one[method] == rank for one in plain])
