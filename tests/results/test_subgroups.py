"""Sizes, numbers of lesions, spacings, single lesions, and cases without the target."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from benchmarks.results.records import SPACINGS
from tests.results.boards import by_hand, printed, show_details, show_leaderboard, unit_of, with_empty_case


def test_size_classes_by_closed_form() -> None:
    rows, _ = by_hand({"a": [0.1, 0.2, 0.3, 0.4, 0.5], "b": [0.5] * 5})
    diameters = np.array([5.0, 10.0, 19.0, 45.0, 0.0])
    rows["volume_mm3_reference"] = np.tile(np.pi / 6 * diameters**3 * (1 + 1e-9), 2)
    told = lb.sizes_of(rows)
    mine = told[told["method"] == "a"].set_index("group")
    assert mine["mean"].to_dict() == {
        "< 10 mm": 0.1,
        "10 to 20 mm": pytest.approx(0.25),
        ">= 40 mm": 0.4,
        "no-target": 0.5,
    }
    assert mine["n"].sum() == 5
    assert mine.index.tolist() == ["< 10 mm", "10 to 20 mm", ">= 40 mm", "no-target"]


def test_a_case_that_one_method_could_not_read_keeps_its_size() -> None:
    rows, _ = by_hand({"a": [0.1], "b": [None]})
    rows.loc[1, "volume_mm3_reference"] = 0.0
    assert lb.sizes_of(rows)["group"].nunique() == 1
    assert "no-target" not in set(lb.sizes_of(rows)["group"])


def test_number_classes() -> None:
    rows, _ = by_hand({"a": [0.1, 0.2, 0.3, 0.4, 0.5]})
    rows["lesions_reference"] = [1, 2, 5, 6, 0]
    told = lb.numbers_of(rows).set_index("group")["mean"]
    assert told.to_dict() == {"1 lesion": 0.1, "2 to 5": pytest.approx(0.25), "6 or more": 0.4, "no-target": 0.5}


def test_spacing_classes_by_hand() -> None:
    """The slices are stacked along the axis that differs; the order of the axes tells nothing."""
    rows, _ = by_hand({"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "b": [0.5] * 6})
    grids = [(0.5, 0.5, 5.0), (0.8, 4.0, 0.8), (0.9, 0.9, 0.5), (1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (math.nan,) * 3]
    for column, values in zip(SPACINGS, zip(*grids, strict=True), strict=True):
        rows[column] = np.tile(values, 2)
    rows.loc[6, list(SPACINGS)] = math.nan  # b could not read case 0; a could
    flat = lb.in_plane_of(rows)
    mine = flat[flat["method"] == "a"].set_index("group")
    assert mine["mean"].to_dict() == {
        "< 0.7 mm": 0.1,
        "0.7 to 0.9 mm": pytest.approx(0.35),  # 0.8 and 0.7: the lower edge belongs to the class
        ">= 0.9 mm": pytest.approx(0.35),  # 0.9 and 1.0
        "unknown": 0.6,
    }
    thick = lb.slices_of(rows)
    assert thick[thick["method"] == "a"].set_index("group")["mean"].to_dict() == {
        "< 1.5 mm": pytest.approx(0.35),  # 0.5 and 1.0
        "3 to 5 mm": pytest.approx(0.35),  # 4.0 and 3.0
        ">= 5 mm": 0.1,
        "unknown": 0.6,
    }
    for table in (flat, thick):
        assert table.groupby("method")["n"].sum().tolist() == [6, 6]
        assert table.groupby("group")["n"].nunique().eq(1).all()  # the same cases for both methods
    shown = printed(lambda *given: show_details(*given, only=["slices", "in-plane"]), *with_units(rows))
    assert "Dice by distance between slices" in shown
    assert "3 to 5 mm (n=2)" in " ".join(shown.split())


def with_units(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    cases = rows["case"].nunique()
    return rows, [unit_of(name, "kits21", [Protocol("centre-click")], cases) for name in pd.unique(rows["method"])]


def test_records_without_spacing_have_one_group() -> None:
    rows, units = by_hand({"a": [0.1, 0.2]})
    assert lb.slices_of(rows)["group"].tolist() == ["unknown"]
    assert len(lb.details(rows, units)["in-plane"]) == 1


def test_each_lesion_counts_once_and_those_of_a_failure_at_zero() -> None:
    rows, _ = by_hand({"a": [0.5, 0.5], "b": [None, 0.5]})
    assert lb.each_lesion_of(rows).empty
    rows["each_lesion_dice"] = [[0.8, 0.4], [0.6], [], [0.9]]
    rows["each_lesion_diameter_mm"] = [[30.0, 5.0], [15.0], [], [15.0]]
    told = lb.each_lesion_of(rows).set_index(["method", "group"])
    assert told.loc[("a", "all"), ["n", "mean", "failed"]].tolist() == [3, pytest.approx(0.6), 0]
    assert told.loc[("b", "all"), ["n", "mean", "failed"]].tolist() == [3, pytest.approx(0.3), 2]
    assert told.loc[("a", "< 10 mm"), "mean"] == 0.4
    assert told.loc[("b", "20 to 40 mm"), "mean"] == 0.0
    interval = st.mean_interval([0.8, 0.4, 0.6], ["p", "p", "q"], "share")
    assert told.loc[("a", "all"), ["low", "high"]].tolist() == [interval.low, interval.high]


def test_a_case_without_the_target_is_in_no_mean_and_is_told() -> None:
    rows, units = by_hand({"good": [0.9, 0.0, 0.7, 0.8], "bad": [0.5, 0.0, None, 0.6]})
    rows = with_empty_case(rows, "case_01", ["good", "bad"])
    board = lb.leaderboard_of(rows, units).set_index("method")
    assert board["dice"].tolist() == [pytest.approx(0.8), pytest.approx(1.1 / 3)]
    assert board["cases"].tolist() == [3, 3]
    assert board["failed"].tolist() == [0, 1]
    assert board["no_target"].tolist() == [1, 1]
    assert np.isfinite(board["hd95_mm"]).all()
    notes = lb.notes_of(rows, units)
    assert notes[0].startswith("no-target: kits21, kidney-tumor, case_01: nothing to prompt")
    assert notes[0].endswith("in no mean of centre-click")
    assert notes[1] == "failed: bad on kits21, case_02: ValueError: no"
    shown = printed(show_leaderboard, lb.leaderboard_of(rows, units))
    assert re.search(r"good .* 3/3", shown)
    assert re.search(r"bad .* 2/3", shown)


def test_completeness_still_asks_for_the_row_of_a_case_without_the_target() -> None:
    rows, units = by_hand({"a": [0.9, 0.0], "b": [0.5, 0.0]})
    rows = with_empty_case(rows, "case_01", ["a", "b"])
    assert lb.check_complete(rows, units).empty  # it is no failure
    with pytest.raises(UserError, match=r"1 rows are missing .*b / kits21 / case_01"):
        lb.check_complete(rows.iloc[:-1], units)


def test_no_target_for_one_method_only_is_an_error() -> None:
    """Else a method could be spared its hardest case."""
    rows, units = by_hand({"a": [0.9, 0.1], "b": [0.5, 0.6]})
    torn = with_empty_case(rows, "case_01", ["a"])
    for use in (lambda: lb.leaderboard_of(torn, units), lambda: lb.details(torn, units)):
        with pytest.raises(UserError, match=r"kits21 / case_01 .* has no target for some methods but counts for b"):
            use()


def test_every_table_is_that_of_the_other_cases() -> None:
    """Where nothing was asked nothing is counted: all tables equal those without the case."""
    chance = np.random.default_rng(3)
    scores = {name: chance.uniform(0.3, 0.9, 12).tolist() for name in ("a", "b", "c")}
    rows, units = by_hand(scores)
    rows = rows.assign(**dict.fromkeys(SPACINGS, 1.0))
    without = rows[rows["case"] != "case_05"]
    shorter = [unit | {"cases": [case for case in unit["cases"] if case != "case_05"]} for unit in units]
    empty = with_empty_case(rows, "case_05", ["a", "b", "c"])
    tables, due = lb.details(empty, units), lb.details(without, shorter)
    assert tables.pop("completeness")["no_target"].tolist() == [1, 1, 1]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, due[name])
    board, expected = lb.leaderboard_of(empty, units), lb.leaderboard_of(without, shorter)
    pd.testing.assert_frame_equal(board.drop(columns="no_target"), expected.drop(columns="no_target"))


def test_a_list_with_no_case_to_ask_has_no_mean() -> None:
    rows, units = by_hand({"a": [0.0, 0.0]})
    rows = with_empty_case(with_empty_case(rows, "case_00", ["a"]), "case_01", ["a"])
    board = lb.leaderboard_of(rows, units)
    assert board["cases"].tolist() == [0]
    assert board["dice"].isna().all()
    assert "0/0" in printed(show_leaderboard, board)
    assert all(len(table) == 0 for name, table in lb.details(rows, units, only=["rankings", "sizes"]).items())


def test_prompts_that_people_gave_are_told() -> None:
    rows, units = by_hand({"a": [0.5], "b": [0.4]})
    rows = rows.assign(prompt_origin="given", prompt_bank="c0ffee")
    assert lb.notes_of(rows, units) == [
        "given prompts: centre-click on kits21 was prompted by people (bank c0ffee), not by the simulated user"
    ]


def test_lesions_by_size_are_sums_over_cases() -> None:
    rows, _ = by_hand({"a": [1.0, None, 1.0]})
    told = lb.lesion_sizes_of(rows).set_index("size")
    assert told["lesions"].sum() == rows["lesions_reference"].sum() == 3
    assert told["found"].sum() == 2
    reached = told[told["lesions"] > 0]
    np.testing.assert_allclose(reached["sensitivity"], reached["found"] / reached["lesions"])
    assert told.loc[told["lesions"] == 0, "sensitivity"].isna().all()
    assert told["predicted"].sum() == told["matched"].sum() == 2  # the two cases that did not fail are perfect
    assert told["precision"].dropna().eq(1).all()
    older = without_predictions_by_size(rows)
    assert lb.lesion_sizes_of(older)["precision"].isna().all()


def without_predictions_by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """As the first metrics version wrote records."""
    counts = [column for column in rows if column.startswith(("lesions_predicted@", "lesions_matched@"))]
    return rows.drop(columns=counts)


def test_records_of_two_metrics_versions_stand_beside_each_other() -> None:
    """Each method as in records of its own version alone; what the first did not count is no value, and no zero."""
    new, units = by_hand({"new": [1.0, None, 1.0]}, metrics_version="2")
    old, earlier = by_hand({"old": [1.0, None, 1.0]}, metrics_version="1", latest_call=False)
    old = without_predictions_by_size(old)
    both, described = pd.concat([new, old], ignore_index=True), [*units, *earlier]
    tables = lb.details(both, described)
    told = tables["lesions"].set_index("method")
    for name, alone in (("new", new), ("old", old)):
        columns = ["size", "lesions", "found", "predicted", "matched", "sensitivity", "precision", "f1"]
        expected = lb.lesion_sizes_of(alone).set_index("method")[columns]
        pd.testing.assert_frame_equal(told.loc[name, columns], expected, check_dtype=False)
    assert told.loc["new", "predicted"].sum() == 2
    assert told.loc["old", ["predicted", "matched", "precision", "f1"]].isna().all(axis=None)
    assert told.loc["old", "found"].sum() == 2
    assert {row["predicted"] for row in lb.as_json(tables["lesions"]) if row["method"] == "old"} == {None}
    assert "lesions found / predictions true" in printed(show_details, both, described, width=200)
