"""Tables from records: one row per dataset, track and method; failed rows count as worst, and are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from benchmarks.results import FAILED
from benchmarks.statistics import bootstrap_mean
from benchmarks.users import TRACKS

METRIC_COLUMNS = (
    "dice", "iou", "nsd@1mm", "nsd@2mm", "nsd@5mm", "hd95_mm", "lesion_f1",
    "seconds_open", "seconds_segment", "peak_memory_mb",
)  # fmt: skip
TIMINGS = ("seconds_open", "seconds_segment")
GROUP = ["dataset", "target", "track", "protocol", "method"]
CONFIDENCE_SEED = 20_26


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over cases at the last step of each protocol, one row per dataset, target, track, protocol, method.

    `dice_low` and `dice_high` bound the mean Dice with 95 % (bootstrap over patients). Failed rows count with
    their worst values; only the timings leave them out, because a failure has none.
    """
    if rows.empty:
        return pd.DataFrame()
    final = rows.loc[rows.groupby([*GROUP, "unit", "case"])["step"].idxmax()]
    metrics = [column for column in METRIC_COLUMNS if column in final]
    summaries = []
    for key, group in final.groupby(GROUP, sort=False):
        interval = bootstrap_mean(group["dice"].to_numpy(), group["patient"].to_numpy(), seed=CONFIDENCE_SEED)
        summaries.append(
            dict(zip(GROUP, key, strict=True))
            | {
                "unit": group["unit"].iloc[0],
                "synthetic": bool(group["synthetic"].any()),
                "cases": group["case"].nunique(),
                "failed": int((group["status"] == FAILED).sum()),
            }
            | {column: float(group[column].mean(skipna=column in TIMINGS)) for column in metrics}
            | {"dice_low": interval.low, "dice_high": interval.high}
        )
    return pd.DataFrame(summaries)


def leaderboard_of(rows: pd.DataFrame, units: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The leaderboard: `summarise` with what is known of the units, best Dice first in every list.

    Datasets keep the order of the records; tracks go from the least information given to the most.
    """
    board = summarise(rows)
    if board.empty:
        return board
    known = {unit["unit"]: unit for unit in units}
    for column, default in (("floor", False), ("contamination", "unknown"), ("checkpoint", "")):
        board[column] = [known.get(unit, {}).get(column, default) for unit in board["unit"]]
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["dataset"]))}
    board["_dataset"] = board["dataset"].map(order)
    board["_track"] = board["track"].map({track: place for place, track in enumerate(TRACKS)})
    board = board.sort_values(
        ["_dataset", "target", "_track", "protocol", "dice"],
        ascending=[True, True, True, True, False],
        kind="stable",
    )
    return board.drop(columns=["_dataset", "_track"]).reset_index(drop=True)


def notes_of(rows: pd.DataFrame, units: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader of the leaderboard must know: failures with reasons, protocols left out, test cases."""
    notes = []
    for unit in units:
        if unit["skipped_protocols"]:
            skipped = ", ".join(unit["skipped_protocols"])
            notes.append(f"{unit['method']} on {unit['dataset']}: not applicable: {skipped}")
    if not rows.empty:
        failed = rows[rows["status"] == FAILED].drop_duplicates(["method", "dataset", "case"])
        notes += [
            f"failed: {row['method']} on {row['dataset']}/{row['case']}: {row['reason']}"
            for row in failed.to_dict("records")
        ]
    return list(dict.fromkeys(notes))
