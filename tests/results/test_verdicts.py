"""Verdicts, ranks and who can win at all, against numbers worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from tests.results.boards import by_hand, printed, show_details


def test_verdicts_follow_the_tests() -> None:
    chance = np.random.default_rng(1)
    base = chance.uniform(0.4, 0.8, 30)
    scores = {
        "best": base + 0.1,
        "same": base + 0.1 + chance.normal(0, 0.005, 30),
        "worse": base,
        "erratic": base + chance.normal(0.09, 0.3, 30),
    }
    rows, _ = by_hand({name: values.clip(0, 1).tolist() for name, values in scores.items()})
    pairs = lb.comparisons_of(rows).set_index(["a", "b"])
    assert len(pairs) == 6
    assert pairs.loc[("best", "worse"), "verdict"] == "best is better"
    assert pairs.loc[("best", "same"), "verdict"] == "the same within 0.02"
    assert pairs.loc[("best", "erratic"), "verdict"] == "undecided"
    assert pairs.loc[("best", "worse"), "difference"] == pytest.approx(0.1)
    np.testing.assert_allclose(pairs["p_sign_flip_holm"], st.holm(pairs["p_sign_flip"]))
    alone = st.sign_flip(scores["best"] - scores["worse"], [f"patient_{i:02}" for i in range(30)], lb.CONFIDENCE_SEED)
    assert pairs.loc[("best", "worse"), "p_sign_flip"] == alone.p_value
    assert lb.comparisons_of(rows, margin=0.001).set_index(["a", "b"]).loc[("best", "same"), "verdict"] == "undecided"
    assert lb.comparisons_of(rows[rows["method"] == "best"]).empty
    assert lb.comparisons_of(pd.DataFrame()).empty


def test_the_terminal_shows_both_tests_both_effects_and_equivalence() -> None:
    chance = np.random.default_rng(4)
    base = chance.uniform(0.4, 0.8, 12)
    rows, units = by_hand({"a": base.tolist(), "b": (base - 0.1 + chance.normal(0, 0.02, 12)).tolist()})
    pair = lb.comparisons_of(rows).iloc[0]
    shown = printed(lambda *given: show_details(*given, only=["comparisons"]), rows, units, width=140)
    line = next(line for line in shown.splitlines() if line.startswith("b "))
    for value in (
        f"{pair['cohen_d']:+.1f}",
        f"{pair['rank_biserial']:+.2f}",
        "< 0.001" if pair["p_sign_flip_holm"] < 0.001 else f"{pair['p_sign_flip_holm']:.3f}",
        "< 0.001" if pair["p_wilcoxon_holm"] < 0.001 else f"{pair['p_wilcoxon_holm']:.3f}",
        f"{pair['p_equivalence']:.3f}",
        "a is better",
    ):
        assert value in line
    assert "p same ±0.02" in shown
    ranks = printed(lambda *given: show_details(*given, only=["rankings"]), rows, units, width=140)
    assert "1st 100 %" in ranks
    assert "2nd 100 %" in ranks


def test_verdicts_on_no_difference_come_as_seldom_as_stated() -> None:
    """From records to words: four equal methods, two cases of each of 16 patients; any "is better" is false."""
    trials = 100
    false = 0
    for trial in range(trials):
        chance = np.random.default_rng(trial)
        patients = np.repeat(chance.beta(4, 2, 16), 2)
        rows = pd.DataFrame(
            {"method": name, "case": f"case_{i:02}", "patient": f"p{i // 2}", "dice": score}
            for name in "abcd"
            for i, score in enumerate(np.clip(patients + np.repeat(chance.normal(0, 0.05, 16), 2), 0, 1).round(3))
        ).assign(dataset="kits21", target="t", track="clicks", protocol="centre-click", step=1, status="ok", unit="u")
        false += lb.comparisons_of(rows)["verdict"].str.contains("is better").any()
    assert stats.binom.cdf(false, trials, 0.05) < 0.9995  # not more often than the family-wise level


def test_a_difference_that_is_sure_and_small_is_called_small() -> None:
    pair = {"patients": 30, "p_sign_flip_holm": 0.001, "better": "a", "equivalent": True, "margin": 0.02}
    assert lb.verdict(pair, 1) == "a is better, by less than 0.02"


@pytest.mark.parametrize(("patients", "pairs", "enough"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 3, True)])
def test_few_patients_allow_no_verdict(patients: int, pairs: int, enough: bool) -> None:
    """n patients: the least p-value of an exact sign-flip test is 2 / 2ⁿ, times the pairs after Holm."""
    least = st.sign_flip(np.ones(patients), np.arange(patients), 0).p_value
    assert (least * pairs <= 0.05) is enough
    pair = {"patients": patients, "p_sign_flip_holm": min(least * pairs, 1.0), "better": "a"}
    assert lb.verdict(pair, pairs) == ("a is better" if enough else f"too few patients ({patients}) to tell")


def test_ranks_under_three_schemes_and_other_patients() -> None:
    chance = np.random.default_rng(2)
    base = chance.uniform(0.4, 0.8, 20)
    rows, _ = by_hand(
        {
            "low": (base - 0.1).tolist(),
            "top": (base + 0.1).tolist(),
            "tie": (base + 0.1 + chance.normal(0, 0.01, 20)).tolist(),
        }
    )
    told = lb.rankings_of(rows).set_index("method")
    assert told.loc["low", ["mean-then-rank", "rank-then-mean", "test-based"]].tolist() == [3, 3, 3]
    assert told.loc[["top", "tie"], "test-based"].tolist() == [1, 1]
    assert told.loc["low", "first"] == 0
    assert told.loc[["top", "tie"], "first"].sum() == pytest.approx(1)
    assert told.loc["low", ["rank_low", "rank_high"]].tolist() == [3, 3]
    assert 0 < told["kendall_tau"].iloc[0] < 1
    assert told["kendall_tau"].nunique() == 1
    shares = told[["share_of_rank_1", "share_of_rank_2", "share_of_rank_3"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert told["share_of_rank_1"].equals(told["first"])
    assert shares.loc["low"].tolist() == [0, 0, 1]


def test_no_rank_by_tests_where_no_test_can_win() -> None:
    """Eight methods, eight patients: even who wins every patient has p = 2⁻⁸, times 56 ordered pairs above 0.05."""
    base = np.linspace(0.4, 0.7, 8)
    rows, units = by_hand({f"m{i}": (base + 0.03 * i).tolist() for i in range(8)})
    ranks = lb.rankings_of(rows)
    assert ranks["test-based"].isna().all()
    assert ranks.set_index("method").loc["m7", "mean-then-rank"] == 1
    assert {row["test-based"] for row in lb.as_json(ranks)} == {None}
    shown = printed(lambda *given: show_details(*given, only=["rankings"]), rows, units)
    assert "where with so few patients no test can win" in " ".join(shown.split())
    assert re.search(r"m7 +1 +1 +– +1 +1st 100 %", shown)
    three = rows[rows["method"].isin(["m0", "m1", "m2"])]  # p = 2⁻⁸ · 6 is below 0.05
    assert lb.rankings_of(three).set_index("method")["test-based"].to_dict() == {"m2": 1, "m1": 2, "m0": 3}


@pytest.mark.parametrize(("methods", "patients", "can"), [(2, 5, False), (2, 6, True), (8, 10, False), (8, 11, True)])
def test_when_a_test_can_win(methods: int, patients: int, can: bool) -> None:
    least = stats.wilcoxon(np.arange(1.0, patients + 1), alternative="greater", method="exact").pvalue
    assert bool(least * methods * (methods - 1) <= 0.05) is can
    assert st.tests_can_win(methods, patients) is can


def test_methods_that_solve_nothing_have_no_rank_and_are_not_called_the_same() -> None:
    rows, units = by_hand({"none": [0.0] * 8, "crash": [None] * 8, "some": [0.5] * 7 + [0.0]})
    ranks = lb.rankings_of(rows).set_index("method")
    assert ranks.loc[["none", "crash"], ["mean-then-rank", "rank-then-mean", "first", "rank_low"]].isna().all(axis=None)
    assert ranks.loc["some", ["mean-then-rank", "first"]].tolist() == [1, 1.0]
    pairs = lb.comparisons_of(rows).set_index(["a", "b"])["verdict"]
    assert pairs[("crash", "none")] == "both failed"
    assert (pairs.drop(("crash", "none")) == "some is better").all()
    shown = printed(lambda *given: show_details(*given, only=["rankings"]), rows, units)
    assert re.search(r"none +– +– +– +– +no case above the worst value", shown)
    assert shown.count("1st") == 1
    distance = lb.comparisons_of(rows, "hd95_mm").set_index(["a", "b"])["verdict"]
    assert distance[("crash", "none")] == "none is better"  # it has distances of its own


def test_a_method_whose_masks_are_all_empty_has_no_rank_by_distance() -> None:
    rows, _ = by_hand({"empty": [0.0] * 8, "crash": [None] * 8, "some": [0.5] * 8})
    rows.loc[rows["method"] == "empty", "hd95_mm"] = rows["diagonal_mm"]
    ranks = lb.rankings_of(rows, "hd95_mm").set_index("method")["mean-then-rank"]
    assert ranks.dropna().to_dict() == {"some": 1}
    pairs = lb.comparisons_of(rows, "hd95_mm", margin=5.0).set_index(["a", "b"])["verdict"]
    assert pairs[("crash", "empty")] == "both failed"
    assert (pairs.drop(("crash", "empty")) == "some is better").all()
    rows.loc[(rows["method"] == "empty") & (rows["case"] == "case_00"), "hd95_mm"] -= 1.0
    ranks = lb.rankings_of(rows, "hd95_mm").set_index("method")["mean-then-rank"]
    assert ranks.dropna().to_dict() == {"some": 1, "empty": 2}
    assert st.without_success(rows, "seconds_segment") == {"crash"}, "the longest time is no failure"


def test_ties_by_the_mean_of_the_places_or_by_the_better_one() -> None:
    """One case: places 1, 2, 2 against 1, 2.5, 2.5; b wins where a ties, so the two rules turn them round."""
    table = pd.DataFrame({"a": [0.9, 0.9, 0.5], "b": [0.9, 0.9, 0.6], "c": [0.9, 0.9, 0.7], "d": [0.1, 0.95, 0.9]})
    for scheme, ties in (("rank-then-mean", "average"), ("rank-then-mean-min", "min")):
        places = np.mean([stats.rankdata(-row, method=ties) for row in table.to_numpy()], axis=0)
        expected = stats.rankdata(places.round(9), method="min").astype(int)
        assert st.ranking(table, np.arange(3), True, scheme).tolist() == expected.tolist()  # type: ignore[arg-type]
    average, least = (st.ranking(table, np.arange(3), True, s) for s in ("rank-then-mean", "rank-then-mean-min"))  # type: ignore[arg-type]
    assert average.tolist() != least.tolist()
