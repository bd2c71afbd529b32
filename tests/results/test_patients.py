"""The patient is the unit where tables are made: every column against SciPy or a closed form on the patients' means."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from tests.results.boards import by_hand
from tests.results.patients import error_of_mean, flipped_p, interval_of, means_of, owners

OWNER = owners()
CASES, PATIENTS = len(OWNER), 12
MARGIN = 0.06
PAIRS = [("a", "b"), ("a", "c"), ("b", "c")]


def patients_alike() -> dict[str, np.ndarray]:
    """Three methods; what a patient has makes up most of a case, so that cases tell less than they seem to."""
    chance = np.random.default_rng(12)
    hard = chance.normal(0.6, 0.1, PATIENTS)
    return {
        name: np.clip((hard + chance.normal(gain, 0.05, PATIENTS))[OWNER] + chance.normal(0, 0.01, CASES), 0.01, 0.99)
        for name, gain in (("a", 0.04), ("b", 0.0), ("c", -0.02))
    }


def rows_of(dice: dict[str, np.ndarray]) -> pd.DataFrame:
    """Records in which the patients of the cases are known."""
    rows, _ = by_hand({name: values.tolist() for name, values in dice.items()})
    return rows.assign(patient=[f"patient {OWNER[int(case[-2:])]}" for case in rows["case"]])


@pytest.fixture(scope="module")
def dice() -> dict[str, np.ndarray]:
    return patients_alike()


@pytest.fixture(scope="module")
def pairs(dice: dict[str, np.ndarray]) -> pd.DataFrame:
    return lb.comparisons_of(rows_of(dice), margin=MARGIN)


def test_every_column_of_a_comparison_is_on_patients(dice: dict[str, np.ndarray], pairs: pd.DataFrame) -> None:
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == PAIRS
    assert pairs[["n", "patients"]].to_numpy().tolist() == [[CASES, PATIENTS]] * 3
    for (a, b), told in zip(PAIRS, pairs.to_dict("records"), strict=True):
        difference = dice[a] - dice[b]
        means = means_of(difference, OWNER)
        assert told["difference"] == pytest.approx(difference.mean())
        assert [told["low"], told["high"]] == pytest.approx(interval_of(difference, OWNER))
        assert told["p_wilcoxon"] == pytest.approx(stats.wilcoxon(means, method="exact").pvalue)
        assert told["p_sign_flip"] == pytest.approx(flipped_p(difference, OWNER))
        assert told["cohen_d"] == pytest.approx(stats.ttest_1samp(means, 0).statistic / np.sqrt(PATIENTS))
        upwards = stats.wilcoxon(means, alternative="greater").statistic
        assert told["rank_biserial"] == pytest.approx(2 * upwards / (PATIENTS * (PATIENTS + 1) / 2) - 1)
        error, freedom = error_of_mean(difference, OWNER)
        one_sided = stats.t.sf((MARGIN - abs(difference.mean())) / error, freedom)
        assert told["p_equivalence"] == pytest.approx(one_sided)
        assert told["equivalent"] == (one_sided < 0.05)
    assert sorted(pairs["equivalent"]) == [False, False, True]


def test_the_correction_is_holms_on_the_tests_on_patients(pairs: pd.DataFrame) -> None:
    for test in ("wilcoxon", "sign_flip"):
        adjusted = multipletests(pairs[f"p_{test}"], method="holm")[1]
        np.testing.assert_allclose(pairs[f"p_{test}_holm"], adjusted)


def test_cases_would_have_told_something_else(dice: dict[str, np.ndarray], pairs: pd.DataFrame) -> None:
    """So these data can tell a test on patients from one on cases."""
    for (a, b), told in zip(PAIRS, pairs.to_dict("records"), strict=True):
        difference = dice[a] - dice[b]
        assert told["p_wilcoxon"] != pytest.approx(stats.wilcoxon(difference).pvalue, rel=0.1)
        alone = interval_of(difference, np.arange(CASES))
        assert told["high"] - told["low"] > 1.3 * (alone[1] - alone[0])


def test_means_have_the_interval_of_their_patients(dice: dict[str, np.ndarray]) -> None:
    rows = rows_of(dice)
    means = st.summary(rows, "dice").set_index("method")
    board = lb.summarise(rows).set_index("method")
    for name, values in dice.items():
        expected = interval_of(values, OWNER, share=True)
        assert means.loc[name, ["n", "patients"]].tolist() == [CASES, PATIENTS]
        assert means.loc[name, "mean"] == pytest.approx(values.mean())
        assert means.loc[name, ["low", "high"]].tolist() == pytest.approx(expected)
        assert board.loc[name, ["cases", "patients"]].tolist() == [CASES, PATIENTS]
        assert board.loc[name, ["dice_low", "dice_high"]].tolist() == pytest.approx(expected)


# -- ranks --


def one_large_patient() -> dict[str, np.ndarray]:
    """`a` is far better in the five cases of one patient, and a little worse in one case of each other patient."""
    _, first_cases, sizes = np.unique(OWNER, return_index=True, return_counts=True)
    gain = np.zeros(CASES)
    gain[first_cases] = -0.05 - 0.001 * np.arange(PATIENTS)
    large = int(np.flatnonzero(sizes == 5)[0])
    gain[first_cases[large] : first_cases[large] + 5] = 0.2
    return {"a": 0.5 + gain, "b": np.full(CASES, 0.5)}


def test_ranks_by_tests_are_on_patients() -> None:
    """By Wilcoxon `b` wins in eleven patients of twelve; over cases nobody would win."""
    dice = one_large_patient()
    difference = dice["b"] - dice["a"]
    p, opposite = (
        stats.wilcoxon(means_of(difference, OWNER), alternative=side, method="exact").pvalue
        for side in ("greater", "less")
    )
    assert multipletests([p, opposite], method="holm")[1][0] < 0.05
    over_cases = difference[difference != 0]
    assert min(stats.wilcoxon(over_cases, alternative=side).pvalue for side in ("greater", "less")) > 0.05
    ranks = lb.rankings_of(rows_of(dice)).set_index("method")
    assert ranks["test-based"].to_dict() == {"a": 2, "b": 1}
    assert ranks["patients"].tolist() == [PATIENTS, PATIENTS]


def test_whole_patients_are_drawn_for_the_stability_of_ranks() -> None:
    """Closed form, from how often the large patient is drawn: N, binomial (12, 1/12).

    Once is enough for `a` to have the better mean. In the mean of the ranks in each case, five cases of each copy stand
    against one of each other patient drawn: `b` is ahead at 5 N < 12 - N, level at N = 2.
    """
    draws, drawn = 4000, stats.binom(PATIENTS, 1 / PATIENTS)
    ranks = lb.rankings_of(rows_of(one_large_patient()), draws=draws).set_index("method")
    assert ranks[["mean-then-rank", "rank-then-mean"]].to_numpy().tolist() == [[1, 2], [2, 1]]
    first = float(drawn.sf(0))  # (11/12)^12 of the draws are without it
    assert first == pytest.approx(1 - (11 / 12) ** 12)
    within = 4 / np.sqrt(draws)  # four standard errors of a mean of ±1
    assert ranks["first"].to_dict() == pytest.approx({"a": first, "b": 1 - first}, abs=within / 2)
    assert ranks.loc["a", "kendall_tau"] == pytest.approx(first - (1 - first), abs=within)
    expected = float(drawn.cdf(1) - drawn.sf(2))
    assert ranks.loc["a", "kendall_tau_case_ranks"] == pytest.approx(expected, abs=within)
    assert ranks[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 2]] * 2
