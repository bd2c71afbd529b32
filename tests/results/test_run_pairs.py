"""Two runs or two methods on the same cases: differences against SciPy, and what is not compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.common.errors import UserError
from benchmarks.results.records import RecordStore
from benchmarks.results.run_pairs import Side, compared
from benchmarks.results.tables import pairs_page, render
from tests.results.boards import by_hand, one_stops_early

SAME = {"seed": 7, "cases_digest": "c", "prompts_digest": "p", "tolerances_mm": [2.0], "empty_policy": "w",
        "metrics_version": 2, "dataset_version": "1"}  # fmt: skip


def side(name: str, dice: dict[str, Sequence[float | None]], **changes: Any) -> Side:
    rows, units = by_hand(dice, **{**SAME, **changes})
    return Side(name, rows, units)


def test_the_difference_is_that_of_a_paired_t_interval_over_patients() -> None:
    chance = np.random.default_rng(1)
    before, after = chance.uniform(0.3, 0.9, (2, 25))
    pairs = compared(side("old", {"net": before.tolist()}), side("new", {"net": after.tolist()}))
    (row,) = pairs.table.to_dict("records")
    expected = stats.ttest_rel(after, before)
    low, high = expected.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(np.mean(after - before))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["mean_a"], row["mean_b"]) == (pytest.approx(before.mean()), pytest.approx(after.mean()))
    flipped = stats.permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    assert row["p_sign_flip"] == pytest.approx(flipped.pvalue, abs=0.02)
    assert row["patients"] == row["n"] == 25
    assert row["cohen_d"] == pytest.approx(np.mean(after - before) / np.std(after - before, ddof=1))  # b minus a


def test_the_side_that_is_better_is_named_whatever_the_direction() -> None:
    old, new = ({"net": [value] * 24} for value in (0.5, 0.7))
    for a, b in ((old, new), (new, old)):
        (row,) = compared(side("one", a), side("two", b)).table.to_dict("records")
        assert row["verdict"] == f"{'two' if a is old else 'one'} is better"
        assert row["difference"] == pytest.approx(0.2 if a is old else -0.2)
        assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.parametrize("corrected", ["old", "new"])
def test_the_patients_are_those_of_the_newest_call_whichever_side_comes_first(corrected: str) -> None:
    """Twelve cases, which were of a patient each until the column was corrected: two are of one, so p is 2 / 2^6."""
    dice = {"old": [0.5] * 12, "new": [0.51 + 0.01 * case for case in range(12)]}
    sides = {}
    for name, values in dice.items():
        whose = {f"case_{case:02}": f"p{case // 2 if name == corrected else case}" for case in range(12)}
        last = "2026-03-01" if name == corrected else "2026-02-01"  # `old` is called again after `new` was made
        made = "2026-01-01" if name == "old" else "2026-02-01"
        one = side(name, {"net": values}, patients=whose, called_at=last, created_at=made)
        sides[name] = Side(name, one.rows.assign(patient=one.rows["case"].map(whose)), one.units)
    for a, b in (("old", "new"), ("new", "old")):
        (row,) = compared(sides[a], sides[b]).table.to_dict("records")
        assert row["patients"] == 6
        assert row["p_sign_flip"] == pytest.approx(2 / 2**6)


def test_two_methods_of_a_run() -> None:
    pairs = compared(side("net", {"net": [0.5, 0.7]}), side("ball", {"ball": [0.4, 0.5]}))
    (row,) = pairs.table.to_dict("records")
    assert row["method"] == "net → ball"
    assert row["difference"] == pytest.approx(-0.15)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 8}, "other seed: 8 instead of 7"),
        ({"cases_digest": "d"}, "other cases"),
        ({"empty_policy": "x"}, "other empty-mask policy"),
        ({"synthetic": True}, "other data"),
        ({"prompts_digest": "q"}, "other prompts"),
        ({"tolerances_mm": [1.0]}, "other tolerances"),
    ],
)
def test_what_was_made_otherwise_is_not_compared_and_named(changes: dict[str, Any], reason: str) -> None:
    pairs = compared(side("old", {"net": [0.5, 0.6]}), side("new", {"net": [0.6, 0.7]}, **changes))
    assert pairs.table.empty
    assert reason in pairs.notes[0]
    assert pairs.notes[0].startswith("not compared: kits21 · kidney-tumor · centre-click, net")
    assert "nothing can be compared" in render(pairs_page(pairs, ("old", "new"), "dice", False), "terminal")


def test_p_values_are_corrected_over_the_whole_page() -> None:
    # Six patients with the same sign: p is 2 / 2^6 for each method; Holm over two doubles it.
    better = {"one": [0.51, 0.52, 0.53, 0.54, 0.55, 0.56], "two": [0.61, 0.62, 0.63, 0.64, 0.65, 0.66]}
    table = compared(side("old", {"one": [0.5] * 6, "two": [0.6] * 6}), side("new", better)).table
    assert table["p_sign_flip"].tolist() == pytest.approx([2 / 2**6] * 2)
    assert table["p_sign_flip_holm"].tolist() == pytest.approx([4 / 2**6] * 2)


def test_few_patients_beside_many_are_told_apart_where_their_p_says_so() -> None:
    """b wins every patient of both data sets; of 6 p is 2 / 2^6, and as the larger of two Holm leaves it as it is."""
    sides = []
    for name, dice in (("old", 0.5), ("new", 0.6)):
        many, few = (side(name, {"net": [dice + 0.001 * case for case in range(cases)]}) for cases in (30, 6))
        place = {"dataset": "lits17", "unit": "net@lits17"}
        rows = pd.concat([many.rows, few.rows.assign(**place)], ignore_index=True)
        sides.append(Side(name, rows, [*many.units, {**few.units[0], **place}]))
    table = compared(*sides).table.set_index("patients")
    assert table.loc[6, "p_sign_flip_holm"] == pytest.approx(0.03125)
    assert table["verdict"].to_dict() == {30: "new is better", 6: "new is better"}


def test_another_budget_is_compared_and_said() -> None:
    old = side("old", {"net": [0.5, 0.6]}, budget={"minutes": 1})
    new = side("new", {"net": [0.6, 0.7], "more": [0.1, 0.2]}, budget={"minutes": 2})
    pairs = compared(old, new)
    assert len(pairs.table) == 1
    assert any("{'minutes': 1} in old, with {'minutes': 2} in new" in note for note in pairs.notes)
    assert "only in new: more" in pairs.notes


def test_a_method_that_only_one_run_trains_is_named() -> None:
    old, new = side("old", {"net": [0.5, 0.6]}, budget={"minutes": 1}), side("new", {"net": [0.6, 0.7]}, budget={})
    assert compared(old, new).notes == ("net on kits21 was trained with {'minutes': 1} in old, with {} in new",)


def test_another_budget_of_two_methods_is_said_too() -> None:
    a = side("net", {"net": [0.5, 0.6]}, budget={"minutes": 1})
    b = side("other", {"other": [0.6, 0.7]}, budget={"minutes": 2})
    assert compared(a, b).notes == ("net on kits21 was trained with {'minutes': 1}, other with {'minutes': 2}",)
    assert compared(a, side("ball", {"ball": [0.6, 0.7]})).notes == ()  # a floor has no budget


def test_a_run_that_is_not_finished_is_not_compared() -> None:
    old, new = side("old", {"net": [0.5, 0.6]}), side("new", {"net": [0.6, 0.7]})
    pairs = compared(old, Side("new", new.rows.iloc[:1], new.units))
    assert pairs.table.empty
    assert "a run is not finished" in pairs.notes[0]


def test_a_case_that_both_runs_lack_is_missed_too() -> None:
    sides = [side(name, {"net": [0.5, 0.6, 0.7]}) for name in ("old", "new")]
    pairs = compared(*(Side(one.name, one.rows.iloc[1:], one.units) for one in sides))
    assert pairs.table.empty
    assert "a run is not finished" in pairs.notes[0]


def test_a_list_with_nothing_to_find_is_named_and_the_others_are_compared() -> None:
    sides = []
    for name in ("old", "new"):
        found, nothing = side(name, {"net": [0.5, 0.6]}), side(name, {"net": [0.0, 0.0]})
        empty = nothing.rows.assign(dataset="lits17", unit="net@lits17", status="no-target", dice=float("nan"))
        units = [*found.units, {**nothing.units[0], "dataset": "lits17", "unit": "net@lits17"}]
        sides.append(Side(name, pd.concat([found.rows, empty]), units))
    pairs = compared(*sides)
    assert pairs.table["dataset"].tolist() == ["kits21"]
    assert any("lits17" in note and "no case has anything to find" in note for note in pairs.notes)


def test_a_method_that_stops_early_is_not_called_faster() -> None:
    rows, units = one_stops_early()
    sides = [Side(one["method"], rows[rows["method"] == one["method"]], [one]) for one in units]
    (row,) = compared(*sides, metric="seconds_segment").table.to_dict("records")
    assert (row["mean_a"], row["mean_b"], row["verdict"]) == (1.0, 9.0, "fast is better")


def test_failures_count_as_worst() -> None:
    pairs = compared(side("old", {"net": [0.5, 0.6]}), side("new", {"net": [0.6, None]}))
    assert pairs.table["difference"].iloc[0] == pytest.approx(-0.25)


def test_runs_without_a_method_in_common_are_an_error() -> None:
    with pytest.raises(UserError, match="no method in common"):
        compared(side("old", {"a": [0.5], "b": [0.4]}), side("new", {"c": [0.5]}))


def test_a_page_has_both_means_and_the_difference_with_its_sign() -> None:
    pairs = compared(side("old", {"net": [0.5] * 24}), side("new", {"net": [0.7] * 24}))
    text = render(pairs_page(pairs, ("old", "new"), "dice", pairs.synthetic), "terminal")
    assert "0.500" in text
    assert "+0.200 [+0.200, +0.200]" in text
    assert "a: old, b: new" in text


def test_what_has_no_case_yet_is_not_compared_and_no_internal_error(call: Any, tmp_path: Path) -> None:
    """A run that was cut off before its first case: its units are listed and described, and there are no rows."""
    for out, suites in (("one", ("mine", "other")), ("two", ("mine",))):
        store = RecordStore(tmp_path / out / "records")
        for suite in suites:
            units = [unit for name in ("net", "ball") for unit in side("a", {name: [0.5]}).units]
            folders = [store.unit_folder(suite, "kits21", str(unit["method"]), str(unit["unit"])) for unit in units]
            for unit, folder in zip(units, folders, strict=True):
                store.begin_unit(folder, {**unit, "suite": suite})
            store.set_current(suite, folders)
    for words in (
        ("net", "ball", "--suite", "mine", "--out", "one"),
        ("mine", "other", "--out", "one"),
        ("one", "two", "--suite", "mine"),
    ):
        done = call("compare", *words)
        assert (done.code, done.out) == (2, "")
        assert done.errors == [f"error: {words[0]}: not finished: no case is there yet; run the suite again"]
