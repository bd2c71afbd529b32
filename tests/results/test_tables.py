"""What is printed: the same sheets, cells, marks and notes in a terminal, as Markdown, as LaTeX and as a picture."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results.tables import Page, Sheet, details_page, leaderboard_page, render
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER
from tests.results.boards import by_hand, page_of, row_of, study, unit_of

FORMATS = ("terminal", "markdown", "latex", "svg")


def bare(text: str) -> str:
    """The text without spaces, escapes and line breaks, as far as the four forms differ in them."""
    for wrong, right in ((r"\textbackslash{}", "\\"), (r"\textless{}", "<"), (r"\textgreater{}", ">"),
                         (r"\textperiodcentered{}", "·"), (r"$\tau$", "τ"), ("--", "–")):  # fmt: skip
        text = text.replace(wrong, right)
    return re.sub(r"[\s\\ ]", "", text)


def text_of(page: Page, form: str) -> str:
    if form == "svg":
        lines: dict[str, list[str]] = {}
        for element in ElementTree.fromstring(render(page, "svg", width=400)).iter():
            if element.tag.endswith("text") and element.text:
                lines.setdefault(element.get("y", ""), []).append(html.unescape(element.text))
        return bare("".join("".join(parts) for parts in lines.values()))
    return bare(render(page, form, width=400))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    rows, units = study(methods=5, cases=8, synthetic=True)
    notes = lb.notes_of(rows, units)
    detail = details_page(rows, units, only=["comparisons", "rankings", "metrics", "contamination"])
    return {
        "overall": page_of(rows, units, notes, overall_only=True),
        "all": page_of(rows, units, notes),
        "details": page_of(rows, units, notes) + detail,
        "table": details_page(rows, units, only=["comparisons"]),
    }


@pytest.mark.parametrize("form", FORMATS)
def test_notes_are_shown_where_there_is_no_list(form: str) -> None:
    page = leaderboard_page(pd.DataFrame(), pd.DataFrame(), ["automatic: not applicable to ball"])
    assert bare("automatic: not applicable to ball") in text_of(page, form)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["overall", "all", "details", "table"])
def test_every_form_has_every_cell_note_and_mark(pages: dict[str, Page], name: str, form: str) -> None:
    page = pages[name]
    text = text_of(page, form)
    for sheet in page.sheets:
        assert bare(sheet.title) in text
        for row in sheet.rows:
            for cell in row:
                assert bare(cell) in text
    for note in page.notes:
        assert bare(note) in text
    assert bare(SYNTHETIC_BANNER) in text


def test_a_page_holds_what_was_asked_for_and_no_more(pages: dict[str, Page]) -> None:
    assert all(sheet.title.startswith("all datasets") for sheet in pages["overall"].sheets)
    assert len(pages["overall"].sheets) == 3  # protocols
    assert len(pages["all"].sheets) == 3 + 9 + 1  # costs
    assert len(pages["details"].sheets) == 3 + 9 + 1 + 1 + 3 * 9
    assert len(pages["table"].sheets) == 9


def test_the_table_over_datasets_is_shown_by_name_or_said_to_be_none() -> None:
    rows, units = study(methods=3, cases=6)
    page = details_page(rows, units, only=["overall"])
    shown = page_of(rows, units, overall_only=True)
    assert [sheet.title for sheet in page.sheets] == [sheet.title for sheet in shown.sheets]
    assert page.sheets
    assert set(page.notes) <= set(shown.notes)
    one = details_page(*by_hand({"a": [0.5, 0.6], "b": [0.1, 0.2]}), only=["overall"])
    assert (one.sheets, one.notes) == (
        (),
        ("overall: nothing to show, no list has two data sets that a table could be over",),
    )
    assert "no records" not in render(one, "terminal")


def test_a_name_is_neither_a_link_nor_a_picture() -> None:
    page = Page((Sheet("s", ("method",), (("![x](http://example.org/x.png)",),)),))
    assert "](" not in render(page, "markdown")


def test_no_latex_sign_is_left_that_plain_latex_does_not_know(pages: dict[str, Page]) -> None:
    text = render(pages["details"], "latex") + render(Page((Sheet("a → b, τ, 2ⁿ", ("method",), ()),)), "latex")
    assert {sign for sign in text if ord(sign) > 255} <= set("†‡…")


def test_floors_and_phantoms_are_marked_in_the_details_as_in_the_leaderboard(pages: dict[str, Page]) -> None:
    for sheet in pages["details"].sheets:
        if "model cards" not in sheet.title:
            assert "SYNTHETIC" in sheet.title
        names = {row[0] for row in sheet.rows}
        assert "ball" not in names
        assert "3dsam-adapter-tiny" not in names
        if "minus the others" not in sheet.title:
            assert {"ball (floor)", "3dsam-adapter-tiny (floor)"} <= names


def test_lists_keep_the_order_of_the_suite_in_every_table() -> None:
    """Datasets, and protocols of one track, as the suite names them, not by the alphabet."""
    protocols = [Protocol("random-click"), Protocol("centre-click"), Protocol("none")]
    units = [unit_of(name, dataset, protocols, 3) for dataset in ("msd-pancreas", "kits21") for name in "ab"]
    rows = pd.DataFrame(
        [row_of(unit, case, p, 1, 0.5 + 0.1 * case) for unit in units for case in range(3) for p in protocols]
    )
    due = [(d, p) for d in ("msd-pancreas", "kits21") for p in ("automatic", "random-click", "centre-click")]
    tables: dict[str, Any] = {"board": lb.leaderboard_of(rows, units)} | lb.details(rows, units)
    for name in ("board", "metrics", "rankings", "comparisons", "sizes", "lesions"):
        found = list(dict.fromkeys(zip(tables[name]["dataset"], tables[name]["protocol"], strict=True)))
        assert found == due, name


def test_pages_add_up_and_say_a_note_once() -> None:
    one = Page((Sheet("a", ("x",), (("1",),)),), ("note", "mine"))
    both = one + Page((Sheet("b", ("x",), (("2",),)),), ("note",), synthetic=True)
    assert [sheet.title for sheet in both.sheets] == ["a", "b"]
    assert both.notes == ("note", "mine")
    assert both.synthetic


def test_the_others_stand_in_the_order_of_their_distance_to_the_best() -> None:
    rows, units = study(methods=5, cases=8)
    for sheet in details_page(rows, units, only=["comparisons"]).sheets:
        differences = [float(row[1].split()[0]) for row in sheet.rows]
        assert np.all(np.diff(differences) >= -0.01)  # as printed


def test_each_track_over_all_datasets_shows_its_own_dice() -> None:
    """A method that works with clicks and without is on two tables, with other numbers on each."""
    protocols = [Protocol("none"), Protocol("centre-click")]
    units = [unit_of("both", dataset, protocols, 3) for dataset in ("kits21", "lits17")]
    rows = pd.DataFrame(
        [
            row_of(unit, case, protocol, 1, dice)
            for unit in units
            for case in range(3)
            for protocol, dice in zip(protocols, (0.25, 0.75), strict=True)
        ]
    )
    board = lb.leaderboard_of(rows, units)
    page = leaderboard_page(board, lb.overall_of(board, rows), overall_only=True)
    assert [[float(cell) for cell in sheet.rows[0][-2:]] for sheet in page.sheets] == [[0.25, 0.25], [0.75, 0.75]]


def test_80_columns_break_names_and_no_number(pages: dict[str, Page]) -> None:
    for sheet in pages["all"].sheets:
        lines = render(Page((sheet,)), "terminal", 80).splitlines()
        assert max(map(len, lines)) <= 80
        numbers = [cell for row in sheet.rows for name, cell in zip(sheet.headings, row, strict=True)
                   if name in sheet.numeric and name not in sheet.elsewhere]  # fmt: skip
        assert numbers
        assert all(any(number in line for line in lines) for number in numbers)


def test_a_table_that_is_too_wide_leaves_out_what_stands_elsewhere_and_nothing_else() -> None:
    sheet = Sheet("t", ("method", "Dice", "s open"), (("sam-med3d", "0.730 [0.641]", "0.55"),), ("Dice", "s open"))
    sheet = replace(sheet, elsewhere=("s open",))
    assert "0.55" in render(Page((sheet,)), "terminal", 28)  # breaks the name
    narrow = render(Page((sheet,)), "terminal", 22)
    assert "0.55" not in narrow
    assert "0.730 [0.641]" in narrow
    assert "0.55" in render(Page((replace(sheet, elsewhere=()),)), "terminal", 22)
