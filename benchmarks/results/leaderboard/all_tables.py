"""All tables beside the leaderboard, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.results.comparability import with_lists
from benchmarks.results.leaderboard.board import leaderboard_of, metrics_of
from benchmarks.results.leaderboard.challenges import cvpr25_of
from benchmarks.results.leaderboard.comparisons import comparisons_of, rankings_of
from benchmarks.results.leaderboard.completeness import check_complete, completeness_of
from benchmarks.results.leaderboard.context import claims_of, contamination_of, published_of
from benchmarks.results.leaderboard.curves import clicks_of, policies_of, robustness_of, rounds_of
from benchmarks.results.leaderboard.lists import Units, row_dicts, with_seconds_of_answers
from benchmarks.results.leaderboard.overall import overall_of
from benchmarks.results.leaderboard.subgroups import (
    each_lesion_of,
    in_plane_of,
    lesion_sizes_of,
    numbers_of,
    sizes_of,
    slices_of,
)
from benchmarks.results.statistics import with_target


def details(
    rows: pd.DataFrame,
    units: Units,
    metric: str = "dice",
    margin: float | None = None,
    only: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """The tables beside the leaderboard, by name; takes seconds where the leaderboard takes a moment.

    Args:
        margin: the smallest difference that matters, for the equivalence test; see `comparisons_of`. The table over
            all datasets is one of Dice, whatever the metric.
        only: names of the tables wanted; all if empty.

    Raises:
        UserError: the records are not complete, so that nothing can be compared; an unknown metric or table.
    """
    units = list(units)
    check_complete(rows, units)
    rows = with_seconds_of_answers(with_lists(rows, units))
    with_target(rows)
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "completeness": lambda: completeness_of(rows, units),
        "overall": lambda: overall_of(leaderboard_of(rows, units), rows, margin if metric == "dice" else None),
        "metrics": lambda: metrics_of(leaderboard_of(rows, units)),
        "contamination": lambda: contamination_of(units).reset_index(),
        "rankings": lambda: rankings_of(rows, metric),
        "comparisons": lambda: comparisons_of(rows, metric, margin),
        "sizes": lambda: sizes_of(rows, metric),
        "numbers": lambda: numbers_of(rows, metric),
        "in-plane": lambda: in_plane_of(rows, metric),
        "slices": lambda: slices_of(rows, metric),
        "each-lesion": lambda: each_lesion_of(rows),
        "lesions": lambda: lesion_sizes_of(rows),
        "clicks": lambda: clicks_of(rows),
        "cvpr25": lambda: cvpr25_of(rows, units),
        "rounds": lambda: rounds_of(rows, metric),
        "policies": lambda: policies_of(rows, metric),
        "robustness": lambda: robustness_of(rows, units, metric),
        "published": lambda: published_of(units),
        "claims": lambda: pd.DataFrame(claims_of(units)),
    }
    for name in only:
        if name not in makers:
            raise UserError(f"no table '{name}' beside the leaderboard; {nearest_name(name, makers)}")
    return {name: make() for name, make in makers.items() if not only or name in only}


def as_json(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values for JSON: no value (NaN) is None, the infinite is "inf" or "-inf"."""
    return [{key: _plain(value) for key, value in row.items()} for row in row_dicts(table)]


def _plain(value: Any) -> Any:
    if value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return list(value) if isinstance(value, tuple) else value
