"""A table as text, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.metrics import Metric
from benchmarks.results.statistics import FEW_PATIENTS

SYNTHETIC_BANNER = (
    "SYNTHETIC DATA: generated phantoms. These numbers rank methods on phantoms; they say nothing about patients."
)


@dataclass(frozen=True)
class Sheet:
    """A table as text: what the terminal, Markdown and LaTeX print alike.

    Attributes:
        numeric: headings of the columns that are set flush right.
        styles: a rich style for each row, or nothing.
        elsewhere: headings of columns that another sheet of the page shows too; a narrow terminal leaves them out.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Sheets with what must be said beside them: whatever is printed, in a terminal or on paper.

    Attributes:
        synthetic: whether any of the numbers was measured on phantoms; then a banner stands above.
    """

    sheets: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()
    synthetic: bool = False

    def __add__(self, other: Page) -> Page:
        """Both, one below the other; a note that both have stands once."""
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return Page((*self.sheets, *other.sheets), notes, self.synthetic or other.synthetic)


def list_title(key: Sequence[Any], synthetic: bool) -> str:
    """The title of a list (dataset, target, track, protocol, what differs) or over all datasets (the last three)."""
    *where, track, protocol, differs = (str(part) for part in key)
    mark = (f" · {differs}" if differs else "") + (" · SYNTHETIC" if synthetic else "")
    return f"{' · '.join(where or ['all datasets'])} · {given_text(track)} ({protocol}){mark}"


def given_text(track: str) -> str:
    """What the methods of a track are given."""
    return f"given: {'nothing' if track == 'automatic' else track}"


def few_note(sheets: Sequence[Sheet]) -> tuple[str, ...]:
    """What the mark of few patients means, if a sheet has it."""
    return (FEW_LEGEND,) if any(FEW_MARK in cell for sheet in sheets for row in sheet.rows for cell in row) else ()


def method_text(row: Mapping[Any, Any]) -> str:
    return f"{row['method']} (floor)" if row["floor"] else str(row["method"])


FEW_MARK = "†"
FEW_LEGEND = (
    f"{FEW_MARK} fewer than {FEW_PATIENTS} patients: intervals and verdicts hang on the shape of the data, which so "
    "few do not show."
)


def mean_text(mean: float, low: float, high: float, patients: float, signed: bool = False) -> str:
    """A mean with its interval, with as many decimals as the interval allows, and a mark for few patients."""
    digits = digits_of(low, high)
    number = f"{round(mean, digits) + 0.0:{'+' if signed else ''}.{digits}f}" if math.isfinite(mean) else "–"
    return f"{number} {interval_text(low, high, digits, signed)}{few_mark(patients)}"


def few_mark(patients: float) -> str:
    return FEW_MARK if patients < FEW_PATIENTS else ""


UNFINISHED_MARK = "‡"
UNFINISHED_LEGEND = (
    f"{UNFINISHED_MARK} not finished: cases are missing, the means are over those at hand; compare them with no other."
)


def unfinished_mark(row: Mapping[Any, Any]) -> str:
    return UNFINISHED_MARK if row["missing"] else ""


def metric_text(row: Mapping[Any, Any], metric: Metric) -> str:
    """The mean of a metric; a share has no more decimals than the interval of the row's Dice allows."""
    allowed = digits_of(row["dice_low"], row["dice_high"]) if metric.higher_is_better else metric.digits
    return number_text(row[metric.key], min(metric.digits, allowed))


def verdict_text(verdict: Any, patients: float) -> str:
    """A verdict with the mark of few patients; nothing where there is none."""
    if pd.isna(verdict) or not verdict:
        return ""
    return f"{verdict}{few_mark(patients)}" if verdict != "best" else "best"


def digits_of(low: float, high: float) -> int:
    """Decimals that an interval allows: two significant figures of its half width, 0 to 3; 2 where there is none."""
    half = (high - low) / 2
    if not math.isfinite(half):
        return 2
    return 3 if half <= 0 else min(max(1 - math.floor(math.log10(half)), 0), 3)


def interval_text(low: float, high: float, digits: int, signed: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "[–, –]"
    sign = "+" if signed else ""
    ends = (f"{round(end, digits) + 0.0:{sign}.{digits}f}" for end in (low, high))  # + 0.0: never "-0.000"
    return f"[{', '.join(ends)}]"


def number_text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if pd.notna(value) else "–"


def seconds_text(value: float) -> str:
    """Three figures are enough: 0.04, 1.25, 12.5, 125."""
    return number_text(value, 2 if not value >= 10 else 1 if value < 100 else 0)


def count_text(value: float) -> str:
    """A large number in three figures: 850, 12.3 k, 4.05 M."""
    if not pd.notna(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent_text(share: float) -> str:
    return f"{100 * share:.0f} %" if share == share else "–"
