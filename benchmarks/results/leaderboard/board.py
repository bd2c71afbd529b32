"""The leaderboard itself: one row per dataset, track and method, and the table over all datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.metrics import metrics_among
from benchmarks.metrics.registry import Place
from benchmarks.results.comparability import with_lists
from benchmarks.results.leaderboard.completeness import PLACE, missing_cases
from benchmarks.results.leaderboard.lists import (
    GROUP,
    LIST,
    Units,
    beside_trained,
    last_steps,
    list_place,
    with_seconds_of_answers,
)
from benchmarks.results.records import FAILED
from benchmarks.results.statistics import mean_interval, with_target

MEASURED = ("seconds_open", "seconds_segment", "joules")
"""What is measured beside an answer: a failure has none, and not every machine tells all."""

COSTS = (*MEASURED, "peak_memory_mb")

TRAINING_FACTS = {"train_minutes": "minutes", "parameters": "parameters"}
"""Columns of the leaderboard → what a unit's description says of its training; NaN for a method without one. Over the
folds of a row minutes are a mean, parameters the most."""


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over cases at the last step of each protocol, one row per dataset, target, track, protocol, method.

    Of one step alone it takes rows that `with_seconds_of_answers` has had whole. The memory is the largest of the
    process, failed cases included.

    `dice_low` and `dice_high` bound the mean Dice with 95 % (t interval over patients). Failed rows count with
    their worst values; only what is measured beside an answer leaves them out, because a failure has none. `cases`
    are those in which there was something to ask; `no_target` counts the others, which are the same for every method
    of a list. Where there is no other, the means are NaN.

    Raises:
        UserError: a Dice that is not finite, as an empty-mask policy that skips cases gives: a mean over the
            rest would reward what was skipped.
    """
    if rows.empty:
        return pd.DataFrame()
    final = last_steps(rows)
    counted = with_target(final)
    _refuse_skipped(counted)
    metrics = mean_columns(final)
    in_means = set(counted.index)
    summaries = []
    for key, everything in final.groupby(GROUP, sort=False):
        group = everything[everything.index.isin(in_means)]
        means = {column: float(group[column].mean(skipna=column in MEASURED)) for column in metrics}
        if "peak_memory_mb" in means:
            means["peak_memory_mb"] = float(group["peak_memory_mb"].max())
        low = high = math.nan
        if len(group):
            interval = mean_interval(group["dice"].to_numpy(), group["patient"].to_numpy(), "share")
            low, high = interval.low, interval.high
        summaries.append(
            dict(zip(GROUP, key, strict=True))
            | {
                "unit": everything["unit"].iloc[0],
                "synthetic": bool(everything["synthetic"].any()),
                "cases": group["case"].nunique(),
                "patients": group["patient"].nunique(),
                "failed": int((group["status"] == FAILED).sum()),
                "no_target": len(everything) - len(group),
            }
            | means
            | {"dice_low": low, "dice_high": high}
        )
    return pd.DataFrame(summaries)


def mean_columns(rows: pd.DataFrame, place: Place | None = None) -> list[str]:
    """What has a mean: the metrics that the rows have (only those shown at `place`, if one is given) and the costs."""
    return [metric.key for metric in metrics_among(rows, place)] + [column for column in COSTS if column in rows]


def metrics_of(board: pd.DataFrame) -> pd.DataFrame:
    """Every metric of each method, at every tolerance of the suite: GROUP, floor, the means, the interval of Dice."""
    if board.empty:
        return pd.DataFrame()
    return board[
        [*GROUP, "floor", *(metric.key for metric in metrics_among(board, "details")), "dice_low", "dice_high"]
    ]


def _refuse_skipped(rows: pd.DataFrame) -> None:
    gaps = rows[~np.isfinite(rows["dice"])]
    if len(gaps):
        first = gaps.iloc[0]
        raise UserError(
            f"{first['method']} on {first['dataset']}/{first['case']}: no finite Dice ({len(gaps)} such rows) under "
            f"the empty-mask policy '{first['policy']}'; run the suite with one that counts every case"
        )


def leaderboard_of(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """The leaderboard: `summarise` with what is known of the units, best Dice first in every list.

    Units that were made under other conditions are in lists of their own (`comparability`). The seconds of a step that
    kept the mask before it, because the user had stopped, are those of the last answer. `missing` counts the cases
    of a run that is not finished; they are in no mean. A method that is shown untrained as well stands above that row.

    Datasets, targets and protocols keep the order of the suite; tracks go from the least information given to the most.
    """
    units = list(units)
    rows = with_seconds_of_answers(with_lists(rows, units))
    board = summarise(rows)
    if board.empty:
        return board
    known = {(unit["unit"], unit["method"]): unit for unit in units}
    named = list(zip(board["unit"], board["method"], strict=True))
    for column, default in (("floor", False), ("untrained", False), ("contamination", "unknown")):
        board[column] = [known.get(unit, {}).get(column, default) for unit in named]
    board["knows"] = [", ".join(known.get(unit, {}).get("knows", ())) for unit in named]
    folds = rows.groupby(GROUP, sort=False)["unit"].unique().to_dict()
    places = list(board[GROUP].itertuples(index=False, name=None))
    made = [[known.get((unit, place[-1]), {}) for unit in folds[place]] for place in places]
    checkpoints = [dict.fromkeys(str(unit.get("checkpoint") or "") for unit in of) for of in made]
    board["checkpoint"] = [", ".join(filter(None, of)) for of in checkpoints]
    for column, fact in TRAINING_FACTS.items():
        board[column] = [_fact(of, fact) for of in made]
    board.loc[board["synthetic"], "contamination"] = "unseen"
    missing = missing_cases(rows, units)
    board["missing"] = [missing.get(place, 0) for place in board[PLACE].itertuples(index=False, name=None)]
    place = list_place(rows)
    board["_list"] = [place(key) for key in board[LIST].itertuples(index=False)]
    board = board.sort_values(["_list", "dice"], ascending=[True, False], kind="stable")
    board = pd.concat([beside_trained(one) for _, one in board.groupby("_list", sort=False)])
    return board.drop(columns="_list").reset_index(drop=True)


def _fact(folds: Sequence[Mapping[str, Any]], name: str) -> float:
    """A figure of the trainings of a row's folds; nothing for weights that were not trained here.

    A fold that is not finished does not say it.
    """
    trained = [unit for unit in folds if not (unit.get("untrained") and name == "minutes")]
    said = [(unit.get("training") or {}).get(name) for unit in trained]
    values = [float(value) for value in said if value is not None]
    if not values:
        return math.nan
    return max(values) if name == "parameters" else sum(values) / len(values)
