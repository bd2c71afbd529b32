"""Curves over clicks and rounds, untrained methods, robustness, contamination, published numbers."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results.figures import all_figures, curves_figure
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER
from tests.results.boards import by_hand, page_of, printed, row_of, show_details, show_leaderboard, unit_of


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


def test_names_stand_in_figures_as_they_are(tmp_path: Path) -> None:
    """matplotlib reads what is between two "$" as a formula, and leaves what begins with "_" out of a legend."""
    names, three = ("pays $1 or $2", "_of_mine"), Protocol("iterative", rounds=3)
    units = [unit_of(name, "kits21", [three], 2) for name in names]
    rows = pd.DataFrame(
        [row_of(unit, case, three, step, step / 4) for unit in units for case in (0, 1) for step in (1, 2, 3)]
    )
    drawn = all_figures(rows, lb.leaderboard_of(rows, units), lb.details(rows, units), tmp_path)
    assert {path.name.split("-")[0].removesuffix(".svg") for path in drawn} == {"curves", "means", "boxes", "costs"}
    for path in drawn:
        texts = [text.strip() for text in ElementTree.parse(path).getroot().itertext()]
        assert all(name in texts for name in names), path.name


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
    sheet, _costs = page_of(rows, units).sheets
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
