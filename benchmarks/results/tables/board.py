"""The sheets of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.metrics import Metric, metrics_among
from benchmarks.results.leaderboard import LIST, overall_of
from benchmarks.results.tables.sheet import (
    Page,
    Sheet,
    few_note,
    list_title,
    mean_text,
    method_text,
    number_text,
    seconds_text,
)

MARKS = {"trained-on": "*", "superset": "+", "unseen": "", "unknown": "?"}
"""The sign beside a row for what the released weights have seen of the dataset."""

MEANINGS = {"trained-on": "trained on it", "superset": "trained on a collection that holds it", "unknown": "not known"}


def leaderboard_page(board: pd.DataFrame, notes: Sequence[str] = (), overall_only: bool = False) -> Page:
    """One sheet per dataset and track; methods that were given different things are never in one list.

    Where a track has more than one dataset, a sheet over all of them comes first; `overall_only` gives no other.
    """
    if board.empty:
        return Page()
    overall = overall_sheets(board)
    sheets = overall if overall_only and overall else [*overall, *board_sheets(board)]
    return Page(tuple(sheets), (*legend(board), *few_note(sheets), *notes), bool(board["synthetic"].any()))


def overall_sheets(board: pd.DataFrame) -> list[Sheet]:
    """Per track and protocol: mean Dice over the datasets, mean rank, Dice on each; nothing for a single dataset."""
    overall = overall_of(board)
    if overall.empty:
        return []
    marks = {
        (row["method"], name): MARKS[row["contamination"]]
        for row in board.to_dict("records")
        for name in (f"dice/{row['dataset']}", f"dice/{row['dataset']}/{row['target']}")
    }
    sheets = []
    for (track, protocol), rows in overall.groupby(["track", "protocol"], sort=False):
        lists = [str(column) for column in rows if str(column).startswith("dice/") and rows[column].notna().any()]
        if len(lists) < 2:
            continue
        headings = ("method", "mean Dice", "mean rank", *(name.removeprefix("dice/") for name in lists))
        cells = tuple(
            (
                method_text(row),
                number_text(row["dice"], 3),
                number_text(row["mean_rank"], 1),
                *(number_text(row[name], 3) + marks.get((row["method"], name), "") for name in lists),
            )
            for row in rows.to_dict("records")
        )
        styles = tuple("dim" if floor else "" for floor in rows["floor"])
        title = list_title((track, protocol), bool(board["synthetic"].any()))
        sheets.append(Sheet(title, headings, cells, headings[1:], styles))
    return sheets


def board_sheets(board: pd.DataFrame) -> list[Sheet]:
    """One sheet per dataset, target, track and protocol, in the order of the suite."""
    shown = _main_metrics(board)
    marked = bool(board["contamination"].map(MARKS).any())
    headings = ("method", *(("seen",) if marked else ()), "Dice [95 % CI]")
    headings += (*(metric.heading for metric in shown), "s open", "s prompt", "done")
    sheets = []
    for key, rows in board.groupby(LIST, sort=False):
        records = rows.to_dict("records")
        cells = tuple(
            (
                method_text(row),
                *((MARKS[row["contamination"]],) if marked else ()),
                mean_text(row["dice"], row["dice_low"], row["dice_high"], row["patients"]),
                *(number_text(row[metric.key], metric.digits) for metric in shown),
                seconds_text(row["seconds_open"]),
                seconds_text(row["seconds_segment"]),
                f"{row['cases'] - row['failed']}/{row['cases']}",
            )
            for row in records
        )
        styles = tuple("red" if row["failed"] else "dim" if row["floor"] else "" for row in records)
        title = list_title(key, bool(rows["synthetic"].any()))
        sheets.append(Sheet(title, headings, cells, headings[1:], styles))
    return sheets


def _main_metrics(board: pd.DataFrame) -> list[Metric]:
    """The metrics of the main table beside Dice; of the tolerances one, 2 mm if the suite has it."""
    metrics = [metric for metric in metrics_among(board, "leaderboard") if metric.key != "dice"]
    tolerances = [metric.key for metric in metrics if metric.key.startswith("nsd@")]
    chosen = "nsd@2mm" if "nsd@2mm" in tolerances else next(iter(tolerances), None)
    return [metric for metric in metrics if metric.key == chosen or metric.key not in tolerances]


def legend(board: pd.DataFrame) -> list[str]:
    """What the columns and the marks mean, in a few lines."""
    lines = [
        "Dice: mean over cases at the last prompt, 95 % interval over patients; a failed case counts as 0 (done: "
        "cases that did not fail). F1: lesion-wise. s open, s prompt: seconds to take in a scan, and per prompt."
    ]
    used = [seen for seen in MARKS if MARKS[seen] and (board["contamination"] == seen).any()]
    if used:
        meanings = "; ".join(f"{MARKS[seen]} {MEANINGS[seen]}" for seen in used)
        lines.append(f"seen: what the released weights have seen of the dataset: {meanings}.")
    return lines
