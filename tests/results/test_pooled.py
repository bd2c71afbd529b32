"""Over several data sets: against SciPy's Welch and permutation tests, closed forms, and a measured coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.commands.leaderboard import FormatOptions, SourceOptions, TableOptions, leaderboard
from benchmarks.commands.options import PrintOptions
from benchmarks.execution.outcomes import Results
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from benchmarks.results.tables import details_page, leaderboard_page
from tests.results.boards import TARGETS, page_of, printed, row_of, show_all, study, unit_of
from tests.results.coverage import DICE

RNG = np.random.default_rng(6)
CLICK = Protocol("centre-click")


def strata(*sizes: int) -> st.Strata:
    """Data sets with so many patients, a value for each."""
    names = [f"d{place}" for place, size in enumerate(sizes) for _ in range(size)]
    return st.Strata(names, names, [f"p{i}" for size in sizes for i in range(size)])


def test_one_data_set_has_the_interval_of_its_own() -> None:
    values, owner = RNG.random(20), [f"p{i}" for i in RNG.integers(0, 7, 20)]
    pooled = st.pooled_interval(values, st.Strata(["d"] * 20, ["d"] * 20, owner), "share")
    alone = st.mean_interval(values, owner, "share")
    assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert pooled.clusters == alone.clusters


def test_two_data_sets_have_welchs_interval() -> None:
    """The mean of two means is half the difference between one and the negative of the other."""
    a, b = RNG.normal(0.3, 1, 6), RNG.normal(0.5, 3, 25)
    ours = st.pooled_interval(np.concatenate([a, b]), strata(6, 25))
    theirs = stats.ttest_ind(a, -b, equal_var=False).confidence_interval(0.95)
    assert ours.mean == pytest.approx((a.mean() + b.mean()) / 2)  # each weighs the same
    assert (ours.low, ours.high) == pytest.approx((theirs.low / 2, theirs.high / 2))


def test_equivalence_is_the_interval_at_twice_the_level() -> None:
    a, b = RNG.normal(0, 0.05, 15), RNG.normal(0.01, 0.03, 10)
    both = np.concatenate([a, b])
    wide = stats.ttest_ind(a, -b, equal_var=False).confidence_interval(0.9)
    reach = max(abs(wide.low), abs(wide.high)) / 2
    assert st.pooled_equivalence(both, reach * 1.001, strata(15, 10)).equivalent
    assert not st.pooled_equivalence(both, reach * 0.999, strata(15, 10)).equivalent
    assert st.pooled_equivalence(np.zeros(25), 0.02, strata(15, 10)).equivalent


def test_the_permutation_test_flips_patients_within_data_sets() -> None:
    a, b = RNG.normal(0.4, 1, 4), RNG.normal(0.2, 1, 6)
    ours = st.pooled_sign_flip(np.concatenate([a, b]), strata(4, 6), 0)
    weighted = np.concatenate([a / 8, b / 12])
    theirs = stats.permutation_test((weighted,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.statistic == pytest.approx((a.mean() + b.mean()) / 2)


def test_a_patient_with_two_targets_is_one_patient() -> None:
    lists = ["d/a"] * 5 + ["d/b"] * 5
    patients = [f"p{i}" for i in range(5)] * 2
    both = st.Strata(lists, ["d"] * 10, patients)
    values = np.tile(RNG.normal(0.5, 1, 5), 2)
    assert both.patients == 5
    doubled, once = st.pooled_interval(values, both), st.mean_interval(values[:5], patients[:5])
    assert (doubled.low, doubled.high) == pytest.approx((once.low, once.high))  # nothing is gained by counting twice
    assert st.pooled_sign_flip(np.ones(10), both, 0).p_value == 2 / 2**5


def test_a_data_set_of_one_patient_allows_no_interval() -> None:
    interval = st.pooled_interval([0.5, 0.6, 0.7], strata(1, 2), "share")
    assert interval.mean == pytest.approx((0.5 + 0.65) / 2)
    assert math.isnan(interval.low)
    assert not st.pooled_equivalence([0.0, 0.0, 0.0], 0.1, strata(1, 2)).equivalent


def test_the_pooled_interval_covers() -> None:
    """Three data sets of 7 clustered, skewed patients each; the true mean is known in closed form."""
    chance = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        values, owners, names = [], [], []
        for name in "abc":
            dice, owner = DICE.draw(chance, 7)
            values += dice.tolist()
            owners += owner.tolist()
            names += [name] * len(dice)
        interval = st.pooled_interval(values, st.Strata(names, names, list(map(str, owners))), "share")
        held += interval.low <= DICE.truth <= interval.high
    assert 0.925 <= held / 1000 <= 0.975


def of_three(scores: dict[str, float], spread: float = 0.02, cases: int = 8) -> tuple[pd.DataFrame, list]:
    chance = np.random.default_rng(0)
    units = [unit_of(name, dataset, [CLICK], cases) for dataset in TARGETS for name in scores]
    rows = [
        row_of(unit, case, CLICK, 1, float(np.clip(scores[unit["method"]] + chance.normal(0, spread), 0, 1)))
        for unit in units
        for case in range(cases)
    ]
    return pd.DataFrame(rows), units


def test_the_table_over_all_datasets_says_who_is_better() -> None:
    rows, units = of_three({"top": 0.8, "twin": 0.8, "low": 0.6})
    overall = lb.overall_of(lb.leaderboard_of(rows, units), rows).set_index("method")
    best = overall["dice"].idxmax()
    assert overall.loc[best, "against_best"] == "best"
    assert overall.loc["low", "against_best"] == "worse"
    assert overall.loc[({"top", "twin"} - {best}).pop(), "against_best"] == "the same within 0.02"
    assert (overall["patients"] == 24).all()
    assert ((overall["low"] < overall["dice"]) & (overall["dice"] < overall["high"])).all()
    assert overall.loc["low", "p"] == pytest.approx(3 * 1 / 10_000, rel=0.01)  # Holm: three pairs, none of 9999 draws
    shown = printed(show_all, rows, units)
    assert "against the best" in shown
    assert "†" not in shown.split("kits21 ·")[0]  # 24 patients
    few = rows[rows["case"] < "case_06"]
    shorter = [unit | {"cases": unit["cases"][:6]} for unit in units]
    assert "worse†" in printed(show_all, few, shorter)


def test_the_margin_that_is_stated_holds_for_the_table_over_all_datasets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two data sets, a difference of 0.03 within ± 0.002: more than the usual margin, and less than 0.05."""
    rows, units = of_three({"top": 0.80, "near": 0.77}, spread=0.001, cases=12)
    rows, units = rows[rows["dataset"] != "lits17"], [unit for unit in units if unit["dataset"] != "lits17"]
    board = lb.leaderboard_of(rows, units)
    for margin, said in ((None, "worse"), (0.05, "worse, by less than 0.05")):
        tables = [lb.overall_of(board, rows, margin), lb.details(rows, units, "dice", margin, ["overall"])["overall"]]
        for table in tables:
            assert table.set_index("method").loc["near", "against_best"] == said
        legends = [
            [note for note in page.notes if "equivalence within" in note]
            for page in (leaderboard_page(board, tables[0]), details_page(rows, units, margin=margin, only=["overall"]))
        ]
        assert all(legend.endswith(f"equivalence within {margin or 0.02:g}.") for (legend,) in legends)
    distance = lb.details(rows, units, "hd95_mm", 5.0, ["overall"])["overall"]  # millimetres are no margin of a Dice
    assert distance.set_index("method").loc["near", "against_best"] == "worse"
    monkeypatch.setattr("benchmarks.api.load_results", lambda *given, **more: Results("suite", rows, tuple(units)))
    for choice in (TableOptions(margin=0.05), TableOptions(margin=0.05, overall=True)):
        leaderboard(SourceOptions(), choice, FormatOptions(markdown=True), PrintOptions())
        shown = capsys.readouterr().out
        assert "worse, by less than 0.05" in shown
        assert "equivalence within 0.05." in shown


def test_methods_that_are_not_everywhere_have_no_verdict_and_spoil_none() -> None:
    rows, units = of_three({"top": 0.8, "low": 0.6, "part": 0.7})
    missing = (rows["method"] == "part") & (rows["dataset"] == "lits17")
    overall = lb.overall_of(lb.leaderboard_of(rows[~missing], units), rows[~missing]).set_index("method")
    assert overall.loc["part", ["low", "p", "against_best"]].isna().all()
    assert overall.loc["low", "against_best"] == "worse"
    hole = (rows["method"] == "low") & (rows["dataset"] == "lits17") & (rows["case"] == "case_03")
    overall = lb.overall_of(lb.leaderboard_of(rows[~hole], units), rows[~hole]).set_index("method")
    assert overall.loc["low", ["low", "p", "against_best"]].isna().all()  # not the same cases
    assert overall.loc["part", "against_best"] == "worse"


def test_two_failures_are_not_the_same_over_all_datasets_either() -> None:
    rows, units = of_three({"a": 0.0, "b": 0.0}, spread=0.0)
    overall = lb.overall_of(lb.leaderboard_of(rows, units), rows)
    assert sorted(overall["against_best"]) == ["", "both failed"]


def test_the_legend_says_that_each_target_weighs_the_same() -> None:
    """One data set: what weighs the same are its two targets, whose means by hand are 0.8 and 0.4."""
    units = [unit_of("a", "kits21", [CLICK], 2, target={"name": name}, unit=name) for name in ("tumour", "cyst")]
    rows = pd.DataFrame(
        [row_of(unit, 0, CLICK, 1, dice) for unit, dice in zip(units, (0.8, 0.4), strict=True)]
        + [row_of(units[0], 1, CLICK, 1, 0.8)]
    )
    units[1]["cases"] = ["case_00"]
    page = page_of(rows, units)
    assert page.sheets[0].headings[-2:] == ("kits21/tumour", "kits21/cyst")
    assert lb.overall_of(lb.leaderboard_of(rows, units), rows)["dice"].tolist() == [pytest.approx(0.6)]
    assert any("each data set and target weighing the same" in note for note in page.notes)


def test_the_sheet_fits_and_names_each_dataset() -> None:
    rows, units = study(methods=6, cases=8)
    sheet = page_of(rows, units, overall_only=True).sheets[0]
    assert sheet.headings[-3:] == tuple(TARGETS)
    assert max(map(len, printed(show_all, rows, units).splitlines())) <= 100
