"""The leaderboard against numbers worked out by hand, its tables within 100 columns, and its exports."""

from __future__ import annotations

import io
import json
import math
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from benchmarks.common.errors import UserError
from benchmarks.metrics import Reference, evaluate_mask, failed_values, is_metric
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results import statistics as st
from benchmarks.results.figures import curves_figure
from benchmarks.results.records import SPACINGS
from benchmarks.results.tables import Page, details_page, leaderboard_page, print_page, render
from benchmarks.results.tables import details as details_module
from benchmarks.results.tables.board import MARKS, MEANINGS
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER, interval_text, mean_text

SPACING = (10.0, 10.0, 10.0)  # so that a voxel is a small lesion and a mask costs nothing
TARGETS = {"kits21": "kidney-tumor", "msd-pancreas": "pancreas-tumor", "lits17": "liver-tumor"}
SEVEN = Protocol(kind="iterative", rounds=7)


def unit_of(method: str, dataset: str, protocols: Sequence[Protocol], cases: int, **changes: Any) -> dict[str, Any]:
    return {
        "unit": f"{method}@{dataset}",
        "method": method,
        "dataset": dataset,
        "synthetic": False,
        "floor": False,
        "fold": 0,
        "target": {"name": TARGETS.get(dataset, "tumor")},
        "protocols": [protocol.to_mapping() for protocol in protocols],
        "skipped_protocols": [],
        "cases": [f"case_{i:02}" for i in range(cases)],
        "contamination": "unseen",
        "checkpoint": "",
    } | changes


def row_of(
    unit: Mapping[str, Any], case: int, protocol: Protocol, step: int, dice: float | None, **more: Any
) -> dict[str, Any]:
    """A record as evaluation writes it: a real row of metrics, with the Dice put in; None is a failure."""
    truth = np.zeros((6, 6, 6), bool)
    truth[1:3, 1 : 2 + case % 4, 1] = True
    reference = Reference(truth, SPACING)
    values = failed_values(reference) if dice is None else evaluate_mask(truth, reference) | {"dice": dice}
    return {
        **values,
        "unit": unit["unit"],
        "method": unit["method"],
        "dataset": unit["dataset"],
        "synthetic": unit["synthetic"],
        "case": f"case_{case:02}",
        "patient": f"patient_{case:02}",
        "target": unit["target"]["name"],
        "protocol": protocol.name,
        "track": protocol.track,
        "step": step,
        "status": "failed" if dice is None else "ok",
        "reason": "ValueError: no" if dice is None else "",
        "seconds_open": math.nan if dice is None else 2.0,
        "seconds_segment": math.nan if dice is None else 0.5,
        "peak_memory_mb": 100.0,
    } | more


def by_hand(dice: Mapping[str, Sequence[float | None]], **changes: Any) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Records of one list (kits21, centre click) and their units; None is a failed case."""
    click = Protocol(kind="centre-click")
    units = [unit_of(method, "kits21", [click], len(values), **changes) for method, values in dice.items()]
    rows = [row_of(unit, case, click, 1, value) for unit in units for case, value in enumerate(dice[unit["method"]])]
    return pd.DataFrame(rows), units


@pytest.fixture(scope="module")
def large() -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Six methods on three datasets under three protocols, with 8 cases and a few failures."""
    return study(methods=6, cases=8)


def study(methods: int, cases: int, synthetic: bool = False) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    names = ["tags-vit-b", "3dsam-adapter-tiny", "nnunet", "sam-med3d-turbo", "ball"]
    names += [f"method-{i}" for i in range(methods - len(names))]
    protocols = (Protocol(kind="none"), Protocol(kind="centre-click"), SEVEN)
    chance = np.random.default_rng(0)
    units, rows = [], []
    for dataset in TARGETS:
        difficulty = chance.normal(0, 0.1, cases)
        templates = [
            row_of(unit_of("m", dataset, protocols, cases), case, protocols[0], 1, 0.5) for case in range(cases)
        ]
        for place, name in enumerate(names[:methods]):
            seen = ("trained-on", "superset", "unseen", "unknown")[place % 4]
            floor = name in ("ball", "3dsam-adapter-tiny")
            unit = unit_of(name, dataset, protocols, cases, contamination=seen, floor=floor, synthetic=synthetic)
            units.append(unit)
            for case in range(cases):
                for protocol in protocols:
                    for step in range(1, protocol.rounds + 1):
                        dice = 0.8 - 0.03 * place + 0.02 * step + difficulty[case] + chance.normal(0, 0.03)
                        rows.append(
                            templates[case]
                            | {key: unit[key] for key in ("unit", "method", "synthetic")}
                            | {"protocol": protocol.name, "track": protocol.track, "step": step}
                            | {"dice": float(np.clip(dice, 0, 1)), "hd95_mm": float(chance.uniform(1, 300))}
                        )
    frame = pd.DataFrame(rows)
    lost = (frame["method"] == "nnunet") & (frame["case"] == "case_03")
    frame.loc[lost, ["status", "reason", "dice"]] = ["failed", "RuntimeError: out of memory", 0.0]
    return frame, units


def printed(show: Any, *words: Any, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    show(*words, console)
    return console.export_text()


def page_of(rows: pd.DataFrame, units: Any, notes: Sequence[str] = (), overall_only: bool = False) -> Page:
    board = lb.leaderboard_of(rows, units)
    return leaderboard_page(board, lb.overall_of(board, rows), notes, overall_only)


def show_leaderboard(board: pd.DataFrame, console: Console) -> None:
    """The lists alone, without what is over all datasets."""
    print_page(leaderboard_page(board, pd.DataFrame()), console)


def show_all(rows: pd.DataFrame, units: Any, console: Console) -> None:
    print_page(page_of(rows, units), console)


def show_details(rows: pd.DataFrame, units: Any, console: Console, **choice: Any) -> None:
    print_page(details_page(rows, units, **choice), console)


# -- the table itself --


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


# -- over the datasets --


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


# -- completeness --


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


# -- within one list --


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


def test_ties_by_the_mean_of_the_places_or_by_the_better_one() -> None:
    """One case: places 1, 2, 2 against 1, 2.5, 2.5; b wins where a ties, so the two rules turn them round."""
    table = pd.DataFrame({"a": [0.9, 0.9, 0.5], "b": [0.9, 0.9, 0.6], "c": [0.9, 0.9, 0.7], "d": [0.1, 0.95, 0.9]})
    for scheme, ties in (("rank-then-mean", "average"), ("rank-then-mean-min", "min")):
        places = np.mean([stats.rankdata(-row, method=ties) for row in table.to_numpy()], axis=0)
        expected = stats.rankdata(places.round(9), method="min").astype(int)
        assert st.ranking(table, np.arange(3), True, scheme).tolist() == expected.tolist()  # type: ignore[arg-type]
    average, least = (st.ranking(table, np.arange(3), True, s) for s in ("rank-then-mean", "rank-then-mean-min"))  # type: ignore[arg-type]
    assert average.tolist() != least.tolist()


# -- by size, click, policy and noise --


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


# -- cases without the target --


def with_empty_case(rows: pd.DataFrame, case: str, methods: Sequence[str]) -> pd.DataFrame:
    """As evaluation writes it: the same rows, no metric, status "no-target"."""
    rows = rows.copy()
    mine = (rows["case"] == case) & rows["method"].isin(list(methods))
    rows.loc[mine, ["status", "reason"]] = ["no-target", "no voxel of 'kidney-tumor' in the case"]
    rows.loc[mine, [column for column in rows if is_metric(str(column))]] = math.nan
    rows.loc[mine, ["seconds_open", "seconds_segment"]] = math.nan
    return rows


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
    older = rows.drop(columns=[column for column in rows if column.startswith(("lesions_predicted@", "lesions_match"))])
    assert lb.lesion_sizes_of(older)["precision"].isna().all()


def test_rounds_are_means_per_step(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    rows, _ = large
    told = lb.rounds_of(rows)
    assert set(told["protocol"]) == {"iterative-7"}
    mine = told[(told["dataset"] == "kits21") & (told["method"] == "nnunet")]
    assert mine["step"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    kits = rows[(rows["dataset"] == "kits21") & (rows["method"] == "nnunet") & (rows["protocol"] == "iterative-7")]
    np.testing.assert_allclose(mine["mean"], kits.groupby("step")["dice"].mean())


def test_curves_are_drawn_with_every_method(tmp_path: Path) -> None:
    ladder = Protocol.ladder_from_mapping({"kind": "centre-click", "noise": {"displacement_mm": [0, 2, 4]}})
    three = Protocol("iterative", rounds=3)
    units = [unit_of(name, "kits21", [*ladder, three], 2) for name in ("first-method", "second-method")]
    rows = pd.DataFrame(
        [
            row_of(unit, case, p, 1, 0.8 - p.noise.displacement_mm / 20)
            for unit in units
            for case in (0, 1)
            for p in ladder
        ]
        + [row_of(unit, case, three, step, step / 4) for unit in units for case in (0, 1) for step in (1, 2, 3)]
    )
    tables = lb.details(rows, units)
    path = curves_figure(tables, tmp_path / "new" / "curves.svg", note="SYNTHETIC")
    text = "".join(ElementTree.parse(path).getroot().itertext())
    assert text.count("first-method") == text.count("second-method") == 2  # two panels
    assert "displacement of the click" in text
    assert "SYNTHETIC" in text
    again = curves_figure(tables, tmp_path / "again.svg", note="SYNTHETIC")
    assert path.read_bytes() == again.read_bytes()
    with pytest.raises(UserError, match=r"a figure is a \.png, \.svg or \.pdf file"):
        curves_figure(tables, tmp_path / "curves.docx")
    with pytest.raises(UserError, match="no curve to draw"):
        curves_figure(lb.details(*by_hand({"a": [0.5]})), tmp_path / "none.svg")


def test_click_curves_by_hand() -> None:
    three = Protocol(kind="iterative", rounds=3)
    unit = unit_of("a", "kits21", [three], 2)
    curves: list[list[float | None]] = [[0.4, 0.8, 0.9], [0.6, None, None]]
    rows = pd.DataFrame(
        [row_of(unit, case, three, step, dice) for case, c in enumerate(curves) for step, dice in enumerate(c, 1)]
    )
    told = lb.clicks_of(rows.sample(frac=1, random_state=0)).iloc[0]
    assert told["curves"] == 2
    assert told["dice@1"] == pytest.approx(0.5)
    assert told["dice@3"] == pytest.approx(0.45)  # (0.9 + 0) / 2
    assert told["auc"] == pytest.approx(((0.4 / 2 + 0.8 + 0.9 / 2) / 2 + (0.6 / 2) / 2) / 2)
    assert told["noc@0.8"] == pytest.approx((2 + 3) / 2)
    assert told["failures@0.8"] == 1
    assert lb.clicks_of(by_hand({"a": [0.5]})[0]).empty


def test_clicks_are_counted_and_not_rounds() -> None:
    """A box first: step 1 is no click. Two lesions as tasks of their own: each round adds two."""
    boxed = Protocol(kind="iterative", rounds=3, start="box")
    unit = unit_of("a", "kits21", [boxed], 2)
    curves: list[list[float | None]] = [[0.6, 0.7, 0.9], [0.8, None, None]]
    rows = pd.DataFrame(
        [
            row_of(unit, case, boxed, step, dice, clicks=0 if dice is None else step - 1)
            for case, scores in enumerate(curves)
            for step, dice in enumerate(scores, 1)
        ]
    )
    line = lb.clicks_of(rows).iloc[0]
    assert line["dice@0"] == pytest.approx(0.7)
    assert line["dice@1"] == pytest.approx(0.35)
    assert "dice@3" not in line
    assert line["noc@0.8"] == pytest.approx((2 + 0) / 2)
    assert line["auc"] == pytest.approx(((0.6 / 2 + 0.7 + 0.9 / 2) / 2 + (0.8 / 2) / 2) / 2)
    two = rows.assign(clicks=rows["step"] * 2, status="ok", each_lesion_dice=[[0.5, 0.6]] * 6)
    line = lb.clicks_of(two).iloc[0]
    assert line["dice@3"] == pytest.approx(0.7)  # after three clicks only the first round is answered
    assert line["dice@5"] == pytest.approx(0.35)
    assert "dice@1" not in line
    assert "Dice@0" in printed(lambda *given: show_details(*given, only=["clicks"]), rows, [unit])


def test_an_untrained_method_stands_beside_itself_and_is_no_rival_of_the_budget() -> None:
    scores = {"net": [0.7, 0.8], "other": [0.6, 0.7], "net (untrained)": [0.3, 0.4], "lone (untrained)": [0.1, 0.1]}
    rows, units = by_hand(scores)
    budget = {"minutes": 1.0, "steps": None, "cpus": 1, "gpus": 0.0}
    conditions = {"budget": budget, "workers": 2}
    units = [
        unit | (conditions | {"untrained": True, "workers": 1} if "untrained" in unit["method"] else conditions)
        for unit in units
    ]
    board = lb.leaderboard_of(rows, units)
    assert board["method"].tolist() == ["net", "net (untrained)", "other", "lone (untrained)"]
    assert board["untrained"].tolist() == [False, True, False, True]
    assert (board["differs"] == "").all()
    (sheet,) = page_of(rows, units).sheets
    assert sheet.styles == ("", "dim", "", "dim")
    assert "(untrained): the method with the weights" in printed(show_leaderboard, board)
    assert "(untrained)" not in printed(show_leaderboard, lb.leaderboard_of(*by_hand({"a": [0.5]})))


def test_ranks_can_turn_when_empty_masks_are_skipped() -> None:
    """`never` leaves two cases empty; dropping them, as some tools do, would make it the winner."""
    rows, _ = by_hand({"never": [0.9, 0.9, 0.0, 0.0], "always": [0.7, 0.7, 0.7, 0.7]})
    assert lb.policies_of(rows).empty
    rows.loc[[2, 3], "empty"] = "prediction"
    told = lb.policies_of(rows).set_index(["policy", "method"])
    assert told.loc[("worst-value/1", "never"), ["mean", "rank", "skipped"]].tolist() == [0.45, 2, 0]
    assert told.loc[("skip-any-empty/1", "never"), ["mean", "rank", "skipped"]].tolist() == [0.9, 1, 2]
    assert told.loc[("skip-any-empty/1", "always"), ["mean", "rank"]].tolist() == [0.7, 2]


def test_robustness_needs_one_protocol_at_several_errors() -> None:
    ladder = [Protocol.from_mapping({"kind": "centre-click", "noise": {"displacement_mm": mm}}) for mm in (0, 2, 4)]
    unit, other = unit_of("a", "kits21", ladder, 1), unit_of("b", "kits21", ladder[:1], 1)
    rows = [row_of(unit, 0, p, 1, dice) for p, dice in zip(ladder, (0.8, 0.78, 0.7), strict=True)]
    told = lb.robustness_of(pd.DataFrame([*rows, row_of(other, 0, ladder[0], 1, 0.9)]), [unit, other])
    assert set(told["method"]) == {"a"}  # b follows one level only: no curve
    assert told["level"].tolist() == [0, 2, 4]
    assert told["mean"].tolist() == [0.8, 0.78, 0.7]
    assert told["tolerated"].tolist() == [pytest.approx(2 + 2 * 0.03 / 0.08)] * 3
    assert set(told["noise"]) == {"displacement_mm"}
    assert set(told["protocol"]) == {"centre-click"}
    assert lb.robustness_of(*by_hand({"a": [0.5]})).empty


# -- beside the numbers --


def test_contamination_is_a_matrix_and_phantoms_were_seen_by_nobody() -> None:
    click = [Protocol(kind="centre-click")]
    units = [
        unit_of("a", "kits21", click, 1, contamination="trained-on"),
        unit_of("a", "lits17", click, 1, contamination="superset"),
        unit_of("b", "lits17", click, 1, contamination="unknown"),
    ]
    matrix = lb.contamination_of(units)
    assert matrix.loc["a"].tolist() == ["trained-on", "superset"]
    assert pd.isna(matrix.loc["b", "kits21"])
    assert matrix.loc["b", "lits17"] == "unknown"
    phantoms = [unit | {"synthetic": True} for unit in units]
    assert set(lb.contamination_of(phantoms).stack()) == {"unseen"}
    rows, units = by_hand({"a": [0.5]}, contamination="trained-on", synthetic=True)
    assert lb.leaderboard_of(rows, units)["contamination"].tolist() == ["unseen"]


def test_published_numbers_are_apart_labelled_and_never_beside_phantoms() -> None:
    rows, units = by_hand({"nnunet": [0.5, 0.6]})
    published = lb.published_of(units)
    assert set(published["dataset"]) == {"kits21"}
    assert set(published["origin"]) == {"published"}
    assert published["citation"].str.len().min() > 0
    assert set(published["standing"]) == {"verified", "recalled"}
    assert set(lb.leaderboard_of(rows, units)["method"]) == {"nnunet"}
    shown = printed(show_details, rows, units)
    assert "PUBLISHED, not measured here" in shown
    assert "recalled" in shown
    assert "claim (published, verified): TAGS surpasses nnU-Net by 46.88 %" in " ".join(shown.split())
    phantoms, units = by_hand({"nnunet": [0.5, 0.6]}, synthetic=True)
    assert lb.published_of(units).empty
    assert lb.claims_of(units) == []
    shown = printed(show_details, phantoms, units)
    assert "PUBLISHED" not in shown
    assert "published numbers are not shown beside phantoms" in shown
    assert SYNTHETIC_BANNER[:30] in shown


def test_details_are_json(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    tables = lb.details(*large)
    plain = {name: lb.as_json(table) for name, table in tables.items()}
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert len(again["comparisons"]) == 3 * 3 * 15
    assert len(again["rankings"]) == 3 * 3 * 6
    assert {row["method"] for row in again["clicks"]} == {unit["method"] for unit in large[1]}
    assert lb.as_json(pd.DataFrame({"x": [math.nan, math.inf, -math.inf, 1.0]})) == [
        {"x": None},
        {"x": "inf"},
        {"x": "-inf"},
        {"x": 1.0},
    ]


def test_only_the_tables_wanted_are_made() -> None:
    rows, units = by_hand({"a": [0.5, 0.6], "b": [0.4, 0.7]})
    assert list(lb.details(rows, units, only=["sizes", "rankings"])) == ["rankings", "sizes"]
    shown = printed(lambda *given: show_details(*given, only=["rankings"]), rows, units)
    assert "ranks by Dice" in shown
    assert "PUBLISHED" not in shown
    with pytest.raises(UserError, match="no table 'rankins' beside the leaderboard; did you mean 'rankings'"):
        lb.details(rows, units, only=["rankins"])
    with pytest.raises(UserError, match="no metric 'dise'"):
        lb.details(rows, units, metric="dise")


def test_other_metrics_are_ranked_by_their_own_direction() -> None:
    rows, units = by_hand({"a": [0.9] * 8, "b": [0.5] * 8})
    rows["hd95_mm"] = [20.0 + i for i in range(8)] + [5.0 + i for i in range(8)]
    tables = lb.details(rows, units, metric="hd95_mm")
    assert "equivalent" not in tables["comparisons"]  # a distance needs a margin in mm
    assert tables["rankings"]["method"].tolist() == ["b", "a"]
    assert tables["comparisons"]["verdict"].tolist() == ["b is better"]
    shown = printed(lambda *given: show_details(*given, metric="hd95_mm"), rows, units)
    assert "ranks by HD95 (mm)" in shown
    assert "HD95 (mm) of b minus the others" in shown
    assert re.search(r"a +-15\.000 \[-15\.000, -15\.000\]", shown)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.41, 0.93, "0.67 [0.41, 0.93]†"),  # a half width of 0.26 leaves two decimals
        (0.652, 0.688, "0.670 [0.652, 0.688]†"),
        (-4.0, 38.0, "1 [-4, 38]†"),
        (2.1, 9.3, "0.7 [2.1, 9.3]†"),
        (math.nan, math.nan, "0.67 [–, –]†"),
    ],
)
def test_decimals_follow_the_interval_and_few_patients_are_marked(low: float, high: float, text: str) -> None:
    assert mean_text(0.67, low, high, 19) == text
    assert mean_text(0.67, low, high, 20) == text.removesuffix("†")


def test_few_patients_are_marked_at_means_differences_and_verdicts_and_explained() -> None:
    chance = np.random.default_rng(4)
    for patients, marked in ((19, True), (20, False)):
        base = chance.uniform(0.4, 0.8, patients)
        rows, units = by_hand({"a": base.tolist(), "b": (base - 0.1 + chance.normal(0, 0.02, patients)).tolist()})
        shown = printed(show_leaderboard, lb.leaderboard_of(rows, units))
        assert ("]†" in shown) is marked
        assert ("fewer than 20 patients" in shown) is marked
        shown = printed(lambda *given: show_details(*given, only=["comparisons"]), rows, units, width=140)
        assert ("a is better†" in shown) is marked
        assert shown.count("]†") == int(marked)


def test_an_interval_that_ends_at_zero_has_no_sign_of_minus() -> None:
    assert interval_text(-1e-9, 0.25, 2) == "[0.00, 0.25]"
    assert interval_text(-0.5, -1e-9, 3, signed=True) == "[-0.500, +0.000]"
    assert interval_text(math.nan, math.nan, 2) == "[–, –]"


# -- on paper --


def test_everything_fits_into_100_columns(
    large: tuple[pd.DataFrame, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, units = large
    tables = lb.details(rows, units)
    monkeypatch.setattr(details_module, "details", lambda *given: tables)
    for show, given in ((show_all, (rows, units)), (show_details, (rows, units))):
        wide = printed(show, *given, width=400)
        narrow = printed(show, *given, width=100)
        assert max(map(len, narrow.splitlines())) <= 100
        assert "…" not in narrow  # nothing is cut off
        # nothing is lost either: the same signs, whatever the line breaks
        assert sorted(re.sub(r"[\s─━]", "", narrow)) == sorted(re.sub(r"[\s─━]", "", wide))


def test_a_row_of_the_main_table_stays_on_one_line(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    board = lb.leaderboard_of(*large)
    lines = printed(show_leaderboard, board).splitlines()
    assert sum("3dsam-adapter-tiny (floor)" in line and "8/8" in line for line in lines) == 9
    assert sum(re.search(r"nnunet .* 7/8$", line.rstrip()) is not None for line in lines) == 9
    board.loc[0, "method"] = "a-method-whose-name-is-longer-than-any-table-can-hold-in-one-line"
    board.loc[0, "failed"] = 1
    narrow = printed(show_leaderboard, board)
    assert max(map(len, narrow.splitlines())) <= 100


def test_a_summary_over_datasets_comes_first(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    rows, units = large
    shown = printed(show_all, rows, units)
    assert shown.startswith("all datasets · given: automatic (automatic)")
    assert shown.index("all datasets · given: clicks (iterative-7)") < shown.index("kits21 · kidney-tumor")
    one = rows[rows["dataset"] == "kits21"]
    assert "all datasets" not in printed(show_all, one, units)


def test_marks_are_explained_where_they_are_used() -> None:
    for seen, mark in MARKS.items():
        rows, units = by_hand({"a": [0.5]}, contamination=seen)
        shown = printed(show_leaderboard, lb.leaderboard_of(rows, units))
        assert (f"{mark} {MEANINGS.get(seen)}" in " ".join(shown.split())) is bool(mark)
        assert ("seen" in shown.split()) is bool(mark)


def test_names_with_brackets_are_no_markup() -> None:
    rows, units = by_hand({"a[bold]b": [0.5]})
    assert "a[bold]b" in printed(show_leaderboard, lb.leaderboard_of(rows, units))


def test_svg_is_a_picture_with_every_method(large: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    picture = render(page_of(*large, ["a note"]), "svg")
    assert "http" not in picture.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    text = "".join(root.itertext()).replace("\xa0", " ")
    assert "3dsam-adapter-tiny (floor)" in text
    assert "a note" in text
    overall = render(page_of(*large, overall_only=True), "svg")
    short = "".join(ElementTree.fromstring(overall).itertext())
    assert "all datasets" in short.replace("\xa0", " ")
    assert "HD95" in text
    assert "HD95" not in short


def test_markdown_has_whole_tables() -> None:
    rows, units = by_hand({"a|b": [0.5, 0.7], "c_d": [0.4, None]}, contamination="superset")
    text = render(page_of(rows, units, ["a note"]), "markdown")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "a\\|b" in lines[2]
    assert "| 0.60 [" in lines[2]
    assert "c\\_d" in lines[3]
    assert "1/2" in lines[3]
    assert "- a note" in text
    assert "SYNTHETIC" not in text
    phantoms, units = by_hand({"a": [0.5]}, synthetic=True)
    assert text.count("SYNTHETIC") == 0
    assert render(page_of(phantoms, units), "markdown").startswith("**SYNTHETIC DATA")
    assert render(Page(), "markdown") == "no records yet\n"


def test_latex_is_balanced_and_escaped() -> None:
    rows, units = by_hand({"a_b & c%": [0.5, 0.7]}, synthetic=True)
    text = render(page_of(rows, units), "latex")
    assert r"a\_b \& c\%" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 3  # table, tabular, notes
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert "SYNTHETIC DATA" in text
