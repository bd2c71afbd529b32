"""The leaderboard against numbers worked out by hand: means, lists, notes, completeness."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from benchmarks.results.figures import all_figures
from benchmarks.results.mlflow.summary import summary_of
from benchmarks.results.report.page import ReportContent, report_html
from tests.results.boards import (
    SEVEN,
    by_hand,
    one_stops_early,
    printed,
    row_of,
    show_details,
    show_leaderboard,
    study,
    unit_of,
    with_empty_case,
)


def test_means_by_hand_with_failures_as_worst() -> None:
    rows, units = by_hand({"good": [0.9, 0.8, 0.7], "bad": [0.9, None, 0.6]})
    board = lb.leaderboard_of(rows, units).set_index("method")
    assert board.index.tolist() == ["good", "bad"]
    assert board.loc["good", "dice"] == pytest.approx(0.8)
    assert board.loc["bad", "dice"] == pytest.approx(0.5)  # (0.9 + 0 + 0.6) / 3
    assert board["cases"].tolist() == [3, 3]
    assert board["failed"].tolist() == [0, 1]
    diagonal = math.sqrt(3 * 60.0**2)
    assert board.loc["bad", "hd95_mm"] == pytest.approx(diagonal / 3)  # the others are perfect masks
    assert board.loc["bad", "lesion_f1"] == pytest.approx(2 / 3)
    assert board.loc["bad", "seconds_open"] == 2.0  # a failure has no time
    interval = st.mean_interval([0.9, 0.0, 0.6], ["a", "b", "c"], "share")
    assert board.loc["bad", ["dice_low", "dice_high"]].tolist() == [interval.low, interval.high]
    assert 0 < interval.low < 0.1


def test_the_interval_is_one_over_patients() -> None:
    rows, _ = by_hand({"a": [0.9, 0.9, 0.1, 0.1]})
    alone = lb.summarise(rows).iloc[0]
    rows["patient"] = ["p", "p", "q", "q"]
    together = lb.summarise(rows).iloc[0]
    assert alone["dice"] == together["dice"]
    assert together["dice_high"] - together["dice_low"] > 0.98  # two patients tell next to nothing
    assert alone["dice_high"] - alone["dice_low"] < 0.95
    assert (alone["patients"], together["patients"]) == (4, 2)
    rows["patient"] = "p"
    assert math.isnan(lb.summarise(rows).iloc[0]["dice_low"])


def test_the_last_step_counts_case_by_case() -> None:
    unit = unit_of("a", "kits21", [SEVEN], 2)
    rows = pd.DataFrame(
        [row_of(unit, case, SEVEN, step, 0.1 * step + 0.2 * case) for step in range(7, 0, -1) for case in (0, 1)]
    )
    assert lb.summarise(rows)["dice"].tolist() == [pytest.approx(0.8)]
    assert lb.summarise(rows)["cases"].tolist() == [2]


def test_a_step_that_kept_its_mask_has_the_seconds_of_the_answer_that_it_kept() -> None:
    """Two cases at 10 s a prompt: the user of the first stops at step 2, that of the second never."""
    unit = unit_of("a", "kits21", [SEVEN], 2)
    rows = [
        row_of(unit, case, SEVEN, step, 0.5, seconds_segment=0.0 if kept else 10.0 + step, carried=kept)
        for case in (0, 1)
        for step in range(7, 0, -1)
        for kept in [case == 0 and step > 2]
    ]
    board = lb.leaderboard_of(pd.DataFrame(rows), [unit])
    assert board["seconds_segment"].tolist() == [pytest.approx((12 + 17) / 2)]


def test_a_method_that_stops_early_is_not_called_faster(tmp_path: Path) -> None:
    rows, units = one_stops_early()
    tables = lb.details(rows, units, metric="seconds_segment")
    (pair,) = tables["comparisons"].to_dict("records")
    assert (pair["difference"], pair["verdict"]) == (-8.0, "fast is better")
    assert tables["rankings"].set_index("method")["mean-then-rank"].to_dict() == {"fast": 1, "slow": 2}
    assert tables["rounds"].set_index(["method", "step"])["mean"].loc["slow"].tolist() == [9.0, 9.0]
    drawn = all_figures(rows, lb.leaderboard_of(rows, units), tables, tmp_path)
    (costs,) = (path.read_text(encoding="utf-8") for path in drawn if path.name.startswith("costs"))
    assert ">slow<" in costs
    assert ">fast<" in costs


def test_memory_is_the_largest_of_all_cases_and_of_those_that_failed() -> None:
    unit = unit_of("a", "kits21", [Protocol("centre-click")], 3)
    rows = [
        row_of(unit, case, Protocol("centre-click"), 1, dice, peak_memory_mb=memory)
        for case, (dice, memory) in enumerate([(0.5, 1000.0), (None, 11000.0), (0.6, 2000.0)])
    ]
    assert lb.leaderboard_of(pd.DataFrame(rows), [unit])["peak_memory_mb"].tolist() == [11000.0]


def test_a_list_with_nothing_to_find_leaves_the_others_their_mean_over_all() -> None:
    click = Protocol("centre-click")
    rows, units = [], []
    for dataset, status in (("kits21", "ok"), ("lits17", "ok"), ("msd-pancreas", "no-target")):
        for place, method in enumerate(("a", "b")):
            unit = unit_of(method, dataset, [click], 8)
            units.append(unit)
            dice = 0.5 + 0.1 * place if status == "ok" else math.nan
            rows += [row_of(unit, case, click, 1, 0.5) | {"dice": dice, "status": status} for case in range(8)]
    frame = pd.DataFrame(rows)
    overall = lb.overall_of(lb.leaderboard_of(frame, units), frame).set_index("method")
    assert overall["dice"].to_dict() == pytest.approx({"a": 0.5, "b": 0.6})
    assert overall["of"].tolist() == [2, 2]


def test_lists_are_apart_and_in_order() -> None:
    """Datasets as they come, tracks from the least given to the most, best first."""
    box, none = Protocol(kind="box"), Protocol(kind="none")
    scores = {"a": 0.5, "b": 0.9, "c": 0.7}
    units = [unit_of(name, dataset, [box, none], 1) for dataset in ("msd-pancreas", "kits21") for name in scores]
    rows = pd.DataFrame([row_of(unit, 0, p, 1, scores[unit["method"]]) for unit in units for p in (box, none)])
    board = lb.leaderboard_of(rows, units)
    assert list(dict.fromkeys(zip(board["dataset"], board["track"], strict=True))) == [
        ("msd-pancreas", "automatic"),
        ("msd-pancreas", "box"),
        ("kits21", "automatic"),
        ("kits21", "box"),
    ]
    assert board["method"].tolist() == ["b", "c", "a"] * 4


def test_what_is_known_of_the_units_is_shown() -> None:
    rows, units = by_hand({"a": [0.5], "b": [0.4]}, contamination="trained-on", floor=True, checkpoint="c0ffee")
    board = lb.leaderboard_of(rows, units)
    assert board["contamination"].tolist() == ["trained-on"] * 2
    assert board["floor"].all()
    assert set(board["checkpoint"]) == {"c0ffee"}
    assert lb.leaderboard_of(rows, [])["contamination"].tolist() == ["unknown"] * 2
    assert lb.leaderboard_of(pd.DataFrame(), []).empty


def test_the_costs_of_a_training_are_those_of_all_folds() -> None:
    """Two trainings of 1 and 3 minutes take 2 in the mean; one of a fold that is not finished is not known yet."""
    click = Protocol("centre-click")
    figures = [{"minutes": 1.0, "parameters": 1000}, {"minutes": 3.0, "parameters": 1200}]
    units = [
        unit_of("net", "kits21", [click], 4, fold=fold, unit=f"fold {fold}", training=one, checkpoint=f"c{fold}")
        | {"cases": [f"case_{2 * fold + i:02}" for i in range(2)]}
        for fold, one in enumerate(figures)
    ]
    rows = pd.DataFrame([row_of(unit, int(case[-2:]), click, 1, 0.5) for unit in units for case in unit["cases"]])
    (row,) = lb.leaderboard_of(rows, units).to_dict("records")
    assert (row["train_minutes"], row["parameters"], row["checkpoint"]) == (2.0, 1200.0, "c0, c1")
    begun = [{key: value for key, value in units[0].items() if key != "training"}, units[1]]
    (row,) = lb.leaderboard_of(rows.iloc[1:], begun).to_dict("records")
    assert (row["train_minutes"], row["parameters"]) == (3.0, 1200.0)
    untrained = [{**unit, "untrained": True} for unit in units]
    (row,) = lb.leaderboard_of(rows, untrained).to_dict("records")
    assert (math.isnan(row["train_minutes"]), row["parameters"]) == (True, 1200.0)


def test_notes_name_failures_and_protocols_left_out_once() -> None:
    rows, units = by_hand({"a": [0.5, None, None]}, skipped_protocols=["text", "box"])
    assert lb.notes_of(pd.concat([rows, rows]), units) == [
        "text: not applicable to a",
        "box: not applicable to a",
        "failed: a on kits21, 2 cases (case_01, case_02): ValueError: no",
    ]


def test_a_policy_that_skips_cases_gives_no_mean() -> None:
    rows, units = by_hand({"a": [0.5, math.nan]})
    with pytest.raises(UserError, match=r"a on kits21/case_01: no finite Dice \(1 such rows\)"):
        lb.leaderboard_of(rows, units)


def test_a_gap_in_another_metric_is_shown_as_a_gap() -> None:
    """It is not averaged away over the cases that have a value."""
    rows, units = by_hand({"a": [0.5, 0.6]})
    rows["hd95_mm"] = [3.0, math.nan]
    board = lb.leaderboard_of(rows, units)
    assert math.isnan(board.loc[0, "hd95_mm"])
    assert "–" in printed(show_leaderboard, board)


def test_the_leaderboard_of_fifty_units_takes_less_than_a_second() -> None:
    rows, units = study(methods=17, cases=60)
    assert len(units) == 51
    fastest = math.inf
    for _ in range(3):
        started = time.process_time()
        board = lb.leaderboard_of(rows, units)
        fastest = min(fastest, time.process_time() - started)
    assert len(board) == 51 * 3
    assert fastest < 1.0


def test_a_protocol_with_nothing_to_find_anywhere_is_not_pooled() -> None:
    click, none = Protocol("centre-click"), Protocol("none")
    units = [unit_of(method, "kits21", [click, none], 2) for method in ("a", "b")]
    rows = pd.DataFrame([row_of(unit, case, one, 1, 0.5) for unit in units for case in (0, 1) for one in (click, none)])
    asked = rows["protocol"] == click.name
    rows.loc[asked, ["status", "dice"]] = ["no-target", math.nan]
    assert lb.overall_of(lb.leaderboard_of(rows, units), rows)["protocol"].unique().tolist() == [none.name]
    assert lb.details(rows, units)["overall"]["protocol"].unique().tolist() == [none.name]
    alone = rows[asked]
    assert lb.overall_of(lb.leaderboard_of(alone, units), alone).empty
    assert set(summary_of(alone, units).board["verdict"]) == {""}
    page = report_html(ReportContent("suite", alone, [unit | {"protocols": [click.to_mapping()]} for unit in units]))
    assert "centre-click" in page


def test_overall_means_weigh_datasets_alike_and_need_all_of_them() -> None:
    click = Protocol(kind="centre-click")
    scores = {("a", "kits21"): [0.9, 0.9, 0.9], ("b", "kits21"): [0.8, 0.8, 0.8], ("c", "kits21"): [1.0, 1.0, 1.0],
              ("a", "lits17"): [0.3], ("b", "lits17"): [0.5]}  # fmt: skip
    units = [unit_of(method, dataset, [click], len(values)) for (method, dataset), values in scores.items()]
    rows = [
        row_of(unit, case, click, 1, dice)
        for unit in units
        for case, dice in enumerate(scores[unit["method"], unit["dataset"]])
    ]
    overall = lb.overall_of(lb.leaderboard_of(pd.DataFrame(rows), units), pd.DataFrame(rows)).set_index("method")
    assert overall.index.tolist() == ["b", "a", "c"]
    assert overall["dice"].tolist()[:2] == [pytest.approx(0.65), pytest.approx(0.6)]
    assert overall["mean_rank"].tolist()[:2] == [1.5, 1.5]  # c is not on both, so it pushes nobody down
    assert overall.loc["c", ["dice", "mean_rank"]].isna().all()
    assert overall.loc["c", ["lists", "of"]].tolist() == [1, 2]
    assert overall.loc["a", ["dice/kits21", "dice/lits17"]].tolist() == [pytest.approx(0.9), pytest.approx(0.3)]
    assert lb.overall_of(pd.DataFrame(), pd.DataFrame()).empty


def test_every_row_is_there_or_it_is_named(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    rows, units = large
    failed = lb.check_complete(rows, units)
    assert len(failed) == 3 * (1 + 1 + 7)
    assert set(failed["method"]) == {"nnunet"}
    hole = (
        (rows["method"] == "ball") & (rows["dataset"] == "lits17") & (rows["case"] == "case_07") & (rows["step"] == 4)
    )
    assert hole.sum() == 1
    with pytest.raises(
        UserError, match=r"1 rows are missing .*ball / lits17 / case_07 / liver-tumor / iterative-7 / 4"
    ):
        lb.check_complete(rows[~hole], units)
    with pytest.raises(UserError, match="1 rows come twice"):
        lb.check_complete(pd.concat([rows, rows[hole]]), units)
    with pytest.raises(UserError, match=r"72 rows of no known unit, such as tags-vit-b"):
        lb.check_complete(rows, units[1:])
    with pytest.raises(UserError, match="72 rows are missing"):
        lb.check_complete(rows[rows["unit"] != units[0]["unit"]], units)
    with pytest.raises(UserError, match="9 rows are missing"):
        lb.details(rows[~((rows["method"] == "ball") & (rows["case"] == "case_07"))], units)
    assert lb.check_complete(pd.DataFrame(), []).empty


def test_completeness_is_told_in_numbers(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    rows, units = large
    told = lb.completeness_of(rows, units)
    assert len(told) == len(units) == 18
    assert set(told["due"]) == set(told["found"]) == {8 * (1 + 1 + 7)}
    assert told.set_index("method").loc["nnunet", "failed"].tolist() == [9, 9, 9]
    assert told["failed"].sum() == 27
    shown = printed(lambda *given: show_details(*given, only=["completeness"]), rows, units)
    assert re.search(r"kits21 +kidney-tumor +6 +8 +432 +432 +9 +0", shown)
    few, unit = by_hand({"a": [0.5, 0.6]})
    empty = with_empty_case(few, "case_01", ["a"])
    assert lb.completeness_of(empty, unit)[["due", "found", "no_target"]].to_numpy().tolist() == [[2, 2, 1]]


def test_external_validation_is_said_once_for_each_pair() -> None:
    said = {"tested": "b", "trained_on": "a", "fold": 1, "training_cases": 30, "synthetic_training": False}
    units = [unit_of(method, "a-to-b", [Protocol("centre-click")], 4, external=said) for method in ("one", "other")]
    rows = pd.DataFrame([row_of(unit, case, Protocol("centre-click"), 1, 0.5) for unit in units for case in range(4)])
    assert lb.notes_of(rows, units) == [
        "external validation: a-to-b: what learns was trained on 30 cases of a (fold 1), "
        "and all 4 cases of b were tested"
    ]
    said["synthetic_training"] = True
    assert "30 SYNTHETIC phantoms of a" in lb.notes_of(rows, units)[0]
