"""The rows of the leaderboards as cells that have a text to read and a value to sort by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.results.tables.board import MARKS, MEANINGS, main_metrics
from benchmarks.results.tables.sheet import (
    count_text,
    mean_text,
    metric_text,
    number_text,
    seconds_text,
    unfinished_mark,
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: what is sorted by; NaN comes last.
    """

    text: str
    value: float | str = math.nan

    @property
    def sort(self) -> str:
        missing = isinstance(self.value, float) and math.isnan(self.value)
        return "" if missing else str(self.value)


@dataclass(frozen=True)
class Column:
    """A column of a leaderboard.

    Attributes:
        better: "up" or "down", whichever way is better; the best cells of the column are marked.
    """

    heading: str
    title: str
    better: str
    cells: tuple[Cell, ...]

    @property
    def best(self) -> float | None:
        """The best value; None where there is nothing to choose from."""
        values = [cell.value for cell in self.cells if isinstance(cell.value, float) and not math.isnan(cell.value)]
        if len(values) < 2:
            return None
        return max(values) if self.better == "up" else min(values)


@dataclass(frozen=True)
class Line:
    """One method of a leaderboard; `low`, `mean` and `high` are drawn."""

    method: str
    rank: Cell
    group: str
    dice: Cell
    low: float
    mean: float
    high: float
    done: str
    failed: int
    floor: bool
    untrained: bool
    seen: str
    seen_said: str


@dataclass(frozen=True)
class Board:
    """One list."""

    lines: tuple[Line, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Cost:
    """A column of the leaderboard that is a price.

    Attributes:
        scale: what its values are divided by.
        text: how a scaled value is written.
    """

    key: str
    heading: str
    title: str
    scale: float
    text: Callable[[float], str]


COSTS = (
    Cost("seconds_open", "s open", "seconds to take in a scan", 1, seconds_text),
    Cost("seconds_segment", "s prompt", "seconds for the answer to a prompt", 1, seconds_text),
    Cost("joules", "J", "energy of a case, from opening the scan to this answer", 1, seconds_text),
    Cost("peak_memory_mb", "GB", "largest memory of the process, of the GPU where it has one", 1000,
         lambda gigabytes: number_text(gigabytes, 2)),
    Cost("train_minutes", "train min", "minutes of its training", 1, seconds_text),
    Cost("parameters", "params", "parameters of its network", 1, count_text),
)  # fmt: skip
"""Those of them that a leaderboard has are shown."""


def board_of(rows: Sequence[Row], ranks: Mapping[str, Any], groups: Mapping[str, str]) -> Board:
    """The leaderboard of one list, in its order.

    Args:
        ranks: method → rank by the mean; a method without one has none.
        groups: method → letters; methods that share one are not told apart.
    """
    table = pd.DataFrame([dict(row) for row in rows])
    lines = tuple(_line(row, ranks.get(row["method"]), groups.get(row["method"], "")) for row in rows)
    columns = [
        Column(
            metric.heading,
            metric.name,
            "up" if metric.higher_is_better else "down",
            tuple(Cell(metric_text(row, metric), float(row[metric.key])) for row in rows),
        )
        for metric in main_metrics(table)
    ]
    for cost in COSTS:
        if cost.key in table and table[cost.key].notna().any():
            values = [float(row[cost.key]) / cost.scale for row in rows]
            columns.append(
                Column(cost.heading, cost.title, "down", tuple(Cell(cost.text(value), value) for value in values))
            )
    return Board(lines, tuple(columns))


def _line(row: Row, rank: Any, group: str) -> Line:
    known = rank is not None and pd.notna(rank)
    return Line(
        method=str(row["method"]),
        rank=Cell(str(rank), float(rank)) if known else Cell("–"),
        group=group,
        dice=Cell(mean_text(row["dice"], row["dice_low"], row["dice_high"], row["patients"]), float(row["dice"])),
        low=float(row["dice_low"]),
        mean=float(row["dice"]),
        high=float(row["dice_high"]),
        done=f"{row['cases'] - row['failed']}/{row['cases'] + row['missing']}{unfinished_mark(row)}",
        failed=int(row["failed"]),
        floor=bool(row["floor"]),
        untrained=bool(row["untrained"]),
        seen=MARKS[row["contamination"]],
        seen_said=MEANINGS.get(row["contamination"], ""),
    )
