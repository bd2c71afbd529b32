"""How a table is made to fit a terminal: names are broken between words, numbers never."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace

from benchmarks.results.tables.sheet import Sheet

GAP = 2  # columns between two columns


def fitted(sheet: Sheet, width: int) -> tuple[Sheet, bool]:
    """The sheet for a terminal of so many columns, and whether it fits.

    Headings, and cells that are not numbers, get line breaks between words and after hyphens where that is needed. If
    it is not enough, the columns that another sheet shows as well are left out.
    """
    for one in (sheet, _without(sheet, sheet.elsewhere)):
        whole = [max(len(text) for text in column) for column in _columns(one)]
        if sum(whole) + GAP * (len(whole) - 1) <= width:
            return one, True
        least = [_least(column, one.headings[at] in one.numeric) for at, column in enumerate(_columns(one))]
        spare = width - sum(least) - GAP * (len(least) - 1)
        if spare < 0:
            continue
        for at, heading in enumerate(one.headings):  # what is left goes to the names
            if heading not in one.numeric:
                more = min(spare, whole[at] - least[at])
                least[at], spare = least[at] + more, spare - more
        wrapped = [tuple(_wrapped(text, least[at]) for at, text in enumerate(row)) for row in one.rows]
        headings = tuple(_wrapped(text, least[at]) for at, text in enumerate(one.headings))
        numeric = tuple(new for old, new in zip(one.headings, headings, strict=True) if old in one.numeric)
        return replace(one, headings=headings, rows=tuple(wrapped), numeric=numeric), True
    return sheet, False


def _columns(sheet: Sheet) -> list[tuple[str, ...]]:
    return list(zip(sheet.headings, *sheet.rows, strict=True))


def _least(column: tuple[str, ...], numeric: bool) -> int:
    """The fewest letters that a column can have: its numbers whole, its words whole."""
    heading, *cells = column
    parts = [part for text in ((heading,) if numeric else column) for part in re.findall(r"[^\s-]*-?", text)]
    return max([len(part) for part in parts] + ([len(cell) for cell in cells] if numeric else []))


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) if len(text) > width else text


def _without(sheet: Sheet, names: tuple[str, ...]) -> Sheet:
    kept = [at for at, heading in enumerate(sheet.headings) if heading not in names]
    return replace(
        sheet,
        headings=tuple(sheet.headings[at] for at in kept),
        rows=tuple(tuple(row[at] for at in kept) for row in sheet.rows),
    )
