"""Pages within 100 columns, their marks, and the exports."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.results import leaderboard as lb
from benchmarks.results.tables import Page, render
from benchmarks.results.tables import details as details_module
from benchmarks.results.tables.board import MARKS, MEANINGS
from benchmarks.results.tables.sheet import count_text, interval_text, mean_text
from tests.results.boards import by_hand, page_of, printed, show_all, show_details, show_leaderboard


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
    assert shown.startswith("all datasets · given: nothing (automatic)")
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
    every_line = [line for line in text.splitlines() if line.startswith("|")]
    assert len(every_line) == 4 + 4  # the list, and the costs
    lines = every_line[:4]
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
    assert text.count(r"\begin{") == text.count(r"\end{") == 5  # table and tabular of the list and of the costs, notes
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert "SYNTHETIC DATA" in text


def test_costs_are_those_of_the_trainings_and_of_the_rows() -> None:
    rows, units = by_hand({"net": [0.5, 0.6], "ball": [0.4, 0.5]})
    rows.loc[rows["method"] == "net", "peak_memory_mb"] = [2000.0, 3000.0]
    rows.loc[rows["method"] == "net", "seconds_segment"] = [1.0, 2.0]
    units[0]["training"] = {"minutes": 12.5, "parameters": 1_240_000}
    sheet = page_of(rows, units).sheets[-1]
    assert sheet.title == "costs, over all lists"
    assert sheet.headings == ("method", "knows", "train min", "parameters", "memory GB", "s open", "s prompt")
    assert sheet.rows == (
        ("net", "–", "12.5", "1.24 M", "3.0", "2.00", "1.50"),
        ("ball", "–", "–", "–", "0.1", "2.00", "0.50"),
    )


def test_energy_is_a_cost_where_a_machine_told_it() -> None:
    rows, units = by_hand({"net": [0.5, 0.6], "ball": [0.4, 0.5]})
    rows.loc[rows["method"] == "net", "joules"] = [120.0, math.nan]  # of a case on a machine that does not tell
    sheet = page_of(rows, units).sheets[-1]
    assert sheet.headings[5] == "J case"
    assert [row[5] for row in sheet.rows] == ["120", "–"]


@pytest.mark.parametrize(
    ("number", "text"), [(850, "850"), (12_340, "12.3 k"), (93_735_472, "93.7 M"), (2.5e9, "2.5 G"), (math.nan, "–")]
)
def test_large_numbers_have_three_figures(number: float, text: str) -> None:
    assert count_text(number) == text
